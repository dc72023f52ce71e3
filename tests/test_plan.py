"""The plan's claims: the answer is exact, its rows are the bound's, its summaries are the images'."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sizes import within

import maxcrops as mc
from maxcrops.planning import Distribution, ImageSummary, SequenceLimit
from maxcrops.planning.images import knee

SPECS = mc.list_specs()
SIZES = [(480, 640), (1080, 1920), (3024, 4032), (100, 100), (40, 900), (2000, 300), (768, 768), (333, 77)]


# -- the answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text_tokens", "largest"),
    [
        ("molmo-7b-d", 0, 37),
        ("molmo-7b-d", 512, 32),
        ("molmo-7b-d", 1024, 27),
        ("molmo2", 0, 26),
        ("molmo2", 512, 23),
        ("molmo2", 1024, 19),
    ],
)
def test_largest_at_4096(key, text_tokens, largest):
    plan = mc.plan(mc.get_spec(key), max_sequence_length=4096, text_tokens=text_tokens)
    assert plan.largest_max_crops == largest
    assert not plan.knob_ends


@pytest.mark.parametrize("budget", [600, 1500, 4096, 8192, 20000])
@pytest.mark.parametrize("key", SPECS)
def test_largest_fits_and_next_does_not(key, budget):
    spec = mc.get_spec(key)
    limit = within(spec)
    plan = mc.plan(spec, max_sequence_length=budget, text_tokens=200, **limit)
    first, last = spec.max_crops_range
    largest = plan.largest_max_crops
    if largest is None:
        assert mc.worst_case(spec, max_crops=first, **limit).tokens + 200 > budget
        return
    assert mc.worst_case(spec, max_crops=largest, **limit).tokens + 200 <= budget
    assert plan.knob_ends == (largest == last)
    if not plan.knob_ends:
        assert mc.worst_case(spec, max_crops=largest + 1, **limit).tokens + 200 > budget
        assert plan.next_row is not None
        assert plan.next_row.max_crops == largest + 1
    fitting = [row.max_crops for row in plan.rows if row.fits]
    assert max(fitting) == largest


@pytest.mark.parametrize("images_per_sample", [2, 3, 7])
def test_images_share_the_sequence(images_per_sample):
    spec = mc.get_spec("molmo2")
    plan = mc.plan(spec, max_sequence_length=16384, text_tokens=300, images_per_sample=images_per_sample)
    for row in plan.rows:
        assert row.tokens == mc.worst_case(spec, max_crops=row.max_crops).tokens
        assert row.left_for_text == 16384 - images_per_sample * row.tokens
        assert row.fits == (images_per_sample * row.tokens + 300 <= 16384)
    largest = plan.largest_max_crops
    assert images_per_sample * mc.worst_case(spec, max_crops=largest).tokens + 300 <= 16384
    assert images_per_sample * mc.worst_case(spec, max_crops=largest + 1).tokens + 300 > 16384


@pytest.mark.parametrize("budget", [1, 100, 315])
def test_budget_too_small(budget):
    plan = mc.plan(mc.get_spec("molmo-7b-d"), max_sequence_length=budget, text_tokens=0, sizes=SIZES)
    assert plan.largest_max_crops is None
    assert not plan.fits
    assert not plan.knob_ends
    assert plan.knee is None
    assert plan.binding.limit == "sequence"
    assert plan.binding.spare == budget - 316  # the smallest max_crops
    assert {row.verdict for row in plan.rows} == {"over"}
    assert json.dumps(plan.to_dict())
    assert "None" in repr(plan)


def test_text_alone_exceeds_the_sequence():
    plan = mc.plan(mc.get_spec("molmo2"), max_sequence_length=100, text_tokens=200, sizes=SIZES)
    assert plan.largest_max_crops is None
    assert plan.row.images.num_over == len(SIZES)


# -- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spare", "margin", "verdict"),
    [
        (-1, 100, "over"),
        (0, 100, "tight"),
        (99, 100, "tight"),
        (100, 100, "safe"),
        (-1, 0, "over"),
        (0, 0, "safe"),
        (0, 1, "tight"),
        (1, 1, "safe"),
    ],
)
@pytest.mark.parametrize("text_tokens", [0, 512])
def test_verdict_edges(spare, margin, verdict, text_tokens):
    spec = mc.get_spec("molmo-7b-d")
    budget = mc.worst_case(spec).tokens + text_tokens + spare
    plan = mc.plan(spec, max_sequence_length=budget, text_tokens=text_tokens, tight_margin=margin)
    assert plan.row.max_crops == spec.max_crops
    assert plan.row.verdict == verdict
    assert plan.row.binding.spare == spare
    assert plan.fits == plan.row.fits == (spare >= 0)


def test_max_crops_asked_for_is_judged():
    plan = mc.plan(mc.get_spec("molmo-7b-d"), max_crops=40)
    assert (plan.max_crops, plan.row.max_crops, plan.row.verdict) == (40, 40, "over")
    assert not plan.fits
    assert plan.largest_max_crops == 32
    assert 40 in [row.max_crops for row in plan.rows]


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SPECS)
def test_rows_are_the_bound(key):
    spec = mc.get_spec(key)
    text_tokens, budget = 300, 9000
    limit = within(spec)
    plan = mc.plan(spec, max_sequence_length=budget, text_tokens=text_tokens, **limit)
    assert [row.max_crops for row in plan.rows] == sorted({row.max_crops for row in plan.rows})
    assert plan.rows[0].max_crops == spec.max_crops_range[0]
    default = mc.worst_case(spec, **limit).tokens
    for row in plan.rows:
        bound = mc.worst_case(spec, max_crops=row.max_crops, **limit)
        assert (row.tokens, row.grid, row.witness) == (bound.tokens, bound.grid, bound.witness)
        assert row.num_crops == mc.worst_case(spec, max_crops=row.max_crops, count="crops", **limit).tokens
        for count in ("connector_outputs", "vit_patches"):
            if getattr(row, count) is None:
                with pytest.raises(mc.UnboundedError):
                    mc.worst_case(spec, max_crops=row.max_crops, count=count)
                continue
            assert getattr(row, count) == mc.worst_case(spec, max_crops=row.max_crops, count=count, **limit).tokens
        assert row.left_for_text == budget - bound.tokens
        (use,) = row.uses
        assert (use.limit, use.evidence, use.unit) == ("sequence", "exact", "tokens")
        assert use.used == bound.tokens + text_tokens
        assert use.spare == budget - text_tokens - bound.tokens
        ratio = (bound.tokens + text_tokens) / (default + text_tokens)
        assert row.attention == pytest.approx(ratio**2, rel=1e-12)
    assert plan.row.attention == 1.0
    assert plan.row in plan.rows


def test_witness_costs_what_the_row_says():
    spec = mc.get_spec("molmo2-8b")
    for row in mc.plan(spec).rows:
        height, width = row.witness
        assert mc.layout(spec, height=height, width=width, max_crops=row.max_crops).sequence_tokens == row.tokens


def test_tabulated_values_can_be_chosen():
    plan = mc.plan(mc.get_spec("molmo2"), max_crops_list=[4, 30, 12])
    assert [row.max_crops for row in plan.rows] == [4, 30, 12]
    assert plan.max_crops == 8
    assert plan.largest_max_crops == 23


def test_llava_knob_ends():
    spec = mc.get_spec("llava-v1.6-mistral-7b")
    plan = mc.plan(spec, max_sequence_length=10**6)
    assert [row.max_crops for row in plan.rows] == [2, 3, 4]
    assert plan.largest_max_crops == spec.max_crops_range[1] == 4
    assert plan.knob_ends
    assert plan.next_row is None
    beyond = mc.plan(spec, max_sequence_length=10**6, max_crops=9)
    assert beyond.row.tokens == plan.rows[-1].tokens
    with pytest.raises(ValueError, match=r"max_crops must be in 2\.\."):
        mc.plan(spec, max_crops=1)


def test_single_crop_mode():
    spec = mc.get_spec("molmo", crop_mode="resize")
    plan = mc.plan(spec)
    assert plan.row.tokens == 158
    assert plan.knob_ends
    assert [row.max_crops for row in plan.rows] == [1]


def test_sequence_length_source():
    molmo, molmo2 = mc.get_spec("molmo-7b-d"), mc.get_spec("molmo2")
    assert molmo.max_sequence_length == 4096
    assert molmo2.max_sequence_length is None
    cases = [
        (mc.plan(molmo), 4096, "model configuration"),
        (mc.plan(molmo2), 4096, "default"),
        (mc.plan(molmo, max_sequence_length=4096), 4096, "given"),
        (mc.plan(molmo2, max_sequence_length=9000), 9000, "given"),
        (mc.plan(molmo2.replace(max_sequence_length=36864)), 36864, "model configuration"),
    ]
    for plan, length, source in cases:
        assert (plan.max_sequence_length, plan.sequence_length_source) == (length, source)


def test_limit_inverse():
    spec = mc.get_spec("idefics3")
    limit = SequenceLimit(4096, 100, images_per_sample=2)
    largest = limit.largest(spec)
    assert limit.use(spec, largest).spare >= 0
    assert limit.use(spec, largest + 1).spare < 0
    assert SequenceLimit(10, 5).largest(spec) is None


# -- images --------------------------------------------------------------------------------------------------------


def _distribution(values):
    """By Python's own arithmetic: percentiles interpolate between the neighbours in order."""
    ordered = sorted(values)

    def percentile(share):
        at = share * (len(ordered) - 1)
        low = math.floor(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (at - low)

    return {
        "mean": math.fsum(ordered) / len(ordered),
        "p50": percentile(0.5),
        "p90": percentile(0.9),
        "p99": percentile(0.99),
        "max": ordered[-1],
    }


@pytest.mark.parametrize("key", ["molmo-7b-d", "molmo2", "internvl3-8b", "llava-v1.6-mistral-7b", "idefics3"])
@pytest.mark.parametrize("images_per_sample", [1, 2])
def test_summaries_are_the_images(key, images_per_sample):
    spec = mc.get_spec(key)
    rng = np.random.default_rng(7)
    sizes = np.concatenate([np.array(SIZES), rng.integers(50, 3000, (60, 2))])
    plan = mc.plan(
        spec, max_sequence_length=4000, text_tokens=900, sizes=sizes, images_per_sample=images_per_sample, num_threads=2
    )
    assert plan.num_images == len(sizes)
    values = [row.max_crops for row in plan.rows]
    for row in [plan.rows[0], plan.rows[len(values) // 2], plan.rows[-1], plan.row]:
        layouts = [mc.layout(spec, height=int(h), width=int(w), max_crops=row.max_crops) for h, w in sizes]
        images = row.images
        assert images.num_images == len(sizes)
        assert images.num_full_resolution == sum(layout.scale >= 1 for layout in layouts)
        shrink = _distribution([max(1.0, 1 / layout.scale) for layout in layouts])
        tokens = _distribution([layout.sequence_tokens for layout in layouts])
        assert images.shrink.to_dict() == pytest.approx(shrink, rel=1e-12)
        assert images.tokens.to_dict() == pytest.approx(tokens, rel=1e-12)
        assert images.detail == pytest.approx(math.fsum(min(1.0, x.scale) for x in layouts) / len(sizes), rel=1e-12)
        over = sum(images_per_sample * layout.sequence_tokens > 4000 - 900 for layout in layouts)
        assert images.num_over == over


def test_images_that_do_not_fit():
    spec = mc.get_spec("molmo-7b-d")
    square = mc.layout(spec, height=3000, width=3000, max_crops=36).sequence_tokens
    for text_tokens, num_over in [(0, 0), (4096 - square, 0), (4096 - square + 1, 2), (4096, 3)]:
        plan = mc.plan(spec, max_crops=36, text_tokens=text_tokens, sizes=[(3000, 3000), (100, 100), (3000, 3000)])
        assert plan.row.images.num_over == num_over


def test_no_images_no_summary():
    for sizes in (None, [], np.empty((0, 2), dtype=np.int64)):
        plan = mc.plan(mc.get_spec("molmo2"), sizes=sizes)
        assert plan.num_images == 0
        assert plan.knee is None
        assert all(row.images is None for row in plan.rows)


def test_thin_image_has_a_finite_shrink():
    plan = mc.plan(mc.get_spec("molmo-7b-d"), sizes=[(1, 3000)])
    assert math.isfinite(plan.row.images.shrink.max)


def _summary(tokens, detail):
    flat = Distribution(1.0, 1.0, 1.0, 1.0, 1.0)
    return ImageSummary(1, 1, flat, Distribution(tokens, tokens, tokens, tokens, tokens), detail, 0)


def test_knee_is_where_almost_all_detail_is_kept():
    tokens, detail = [100, 200, 300, 400, 1100], [0.20, 0.60, 0.96, 0.991, 1.0]
    summaries = [_summary(t, d) for t, d in zip(tokens, detail, strict=True)]
    assert knee([1, 2, 3, 4, 5], summaries) == 4
    assert knee([10, 20, 35, 40, 50], summaries) == 40
    assert knee([10, 20, 35], summaries[:3]) == 35
    assert knee([], []) is None


def test_knee_of_a_plan():
    """Images of 480 x 640 keep full resolution from 6 crops on: 2 x 3 windows of 224 px and the margins."""
    plan = mc.plan(mc.get_spec("molmo-7b-d"), sizes=[(480, 640)] * 5)
    full = [row.max_crops for row in plan.rows if row.images.num_full_resolution == 5]
    assert plan.knee == full[0] == 6


def test_knee_of_images_that_are_never_shrunk():
    plan = mc.plan(mc.get_spec("molmo-7b-d"), sizes=[(100, 100), (60, 80)])
    assert plan.knee == 1
    assert plan.row.images.num_full_resolution == 2


# -- arguments -----------------------------------------------------------------------------------------------------

NAMES = ["text_tokens", "max_sequence_length", "images_per_sample", "tight_margin", "max_crops"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 12.0, "12", [12]], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_not_an_integer(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got "):
        mc.plan(mc.get_spec("molmo2"), **{name: value})


@pytest.mark.parametrize("name", NAMES[:-1])
def test_bool_is_no_integer(name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got True"):
        mc.plan(mc.get_spec("molmo2"), **{name: True})


def test_bool_is_no_max_crops():
    with pytest.raises(TypeError, match="max_crops must be an integer, got True"):
        mc.plan(mc.get_spec("molmo2"), max_crops=True)


@pytest.mark.parametrize("value", [-1, 2**53, 2**63, 10**40])
@pytest.mark.parametrize("name", NAMES)
def test_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be in \d+\.\.\d+, got {value}"):
        mc.plan(mc.get_spec("molmo2"), **{name: value})


@pytest.mark.parametrize("name", ["max_sequence_length", "images_per_sample", "max_crops"])
def test_zero_is_out_of_range(name):
    with pytest.raises(ValueError, match=rf"{name} must be in 1\.\."):
        mc.plan(mc.get_spec("molmo2"), **{name: 0})


@pytest.mark.parametrize("sizes", [[(1, 2, 3)], [5, 6], [(0, 5)], [(4, -1)]])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="sizes"):
        mc.plan(mc.get_spec("molmo2"), sizes=sizes)


def test_float_sizes():
    with pytest.raises(TypeError, match="sizes must be integers"):
        mc.plan(mc.get_spec("molmo2"), sizes=[(1.5, 2.0)])


def test_no_spec():
    with pytest.raises(TypeError, match="spec must be a Spec"):
        mc.plan("molmo2")


@pytest.mark.parametrize("value", [0, -1])
def test_num_threads_without_sizes(value):
    with pytest.raises(ValueError, match="num_threads"):
        mc.plan(mc.get_spec("molmo2"), num_threads=value)


def test_max_crops_list_of_numpy():
    rows = mc.plan(mc.get_spec("molmo2"), max_crops_list=np.array([4, 8])).rows
    assert [row.max_crops for row in rows] == [4, 8]


# -- size of the table ---------------------------------------------------------------------------------------------


def test_long_tables_are_thinned():
    spec = mc.get_spec("molmo-7b-d")
    plan = mc.plan(spec, max_sequence_length=2**20, text_tokens=0, max_crops=777)
    values = [row.max_crops for row in plan.rows]
    assert len(values) <= 4100
    assert {1, 777, plan.largest_max_crops} <= set(values)
    assert mc.worst_case(spec, max_crops=plan.largest_max_crops + 1).tokens > 2**20


def test_astronomic_budget(tmp_path):
    code = (
        "import time, maxcrops as mc; start = time.perf_counter();"
        "plan = mc.plan(mc.get_spec('molmo-7b-d'), max_sequence_length=2**50);"
        "assert time.perf_counter() - start < 2; assert len(plan.rows) <= 4100; assert plan.knob_ends"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=6, cwd=tmp_path)


# -- rule of thumb, plain data -------------------------------------------------------------------------------------


def test_rule_of_thumb():
    rows = [(rule.max_crops, rule.tokens, rule.left_for_text, rule.verdict) for rule in mc.rule_of_thumb()]
    assert rows == [
        (12, 1728, 2368, "safe"),
        (20, 2880, 1216, "tight"),
        (25, 3600, 496, "very tight"),
        (28, 4032, 64, "hardly feasible"),
        (30, 4320, -224, "over the limit"),
    ]


def test_rule_of_thumb_brackets():
    for rule in mc.rule_of_thumb(range(1, 60), max_sequence_length=8192):
        assert (rule.tokens, rule.tokens_with_specials) == (144 * rule.max_crops, 150 * rule.max_crops)
        assert (rule.left_for_text < 0) == (rule.verdict == "over the limit")


@pytest.mark.parametrize("key", SPECS)
def test_plain_data(key):
    spec = mc.get_spec(key)
    plan = mc.plan(spec, sizes=SIZES, max_sequence_length=6000, **within(spec))
    data = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert data["largest_max_crops"] == plan.largest_max_crops
    assert data["verdict"] == plan.row.verdict
    assert data["model"] == json.loads(json.dumps(spec.to_dict(), allow_nan=False))
    assert data["model"]["key"] == key
    assert [row["tokens"] for row in data["rows"]] == [row.tokens for row in plan.rows]
    assert data["rows"][0]["images"]["num_images"] == len(SIZES)


@pytest.mark.parametrize("name", ["max_sequence_length", "text_tokens", "max_crops"])
def test_plain_data_of_numpy_integers(name):
    plan = mc.plan(mc.get_spec("molmo2"), **{name: np.int64(1000)})
    assert json.dumps(plan.to_dict())
