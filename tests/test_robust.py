"""Wrong arguments raise and say why; right ones give one answer on every path, ISA and number of threads."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sizes import edge_sizes, random_sizes, within

import maxcrops as mc
from maxcrops import _core

MOLMO = mc.get_spec("molmo-7b-d")
SPECS = {
    "molmo": MOLMO,
    "molmo, one crop": mc.get_spec("molmo", crop_mode="resize"),
    "molmo2": mc.get_spec("molmo2-8b"),
    "molmo2, training": mc.get_spec("molmo2", variant="training"),
    "internvl": mc.get_spec("internvl3-8b"),
    "internvl, at least 4": mc.get_spec("internvl", min_patches=4),
    "llava class": mc.get_spec("llava_next"),
    "llava": mc.get_spec("llava-v1.6-mistral-7b"),
    "idefics3": mc.get_spec("idefics3"),
    "idefics3, odd edge": mc.get_spec("idefics3", longest_edge=1455),
    "smolvlm": mc.get_spec("smolvlm2-256m-video-instruct"),
}
COUNTS = ("sequence_tokens", "connector_outputs", "vit_patches", "crops")
BATCH: list[Callable[..., npt.NDArray[Any]]] = [mc.count_tokens, mc.grids, mc.scales]


def _varied_sizes() -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(9)
    huge = np.exp(rng.uniform(0, np.log(2**31 - 1), (4000, 2))).astype(np.int64)
    corners = np.array([(a, b) for a in (1, 2, 2**31 - 1) for b in (1, 3, 2**31 - 1)])
    return np.concatenate([edge_sizes(224, 112), edge_sizes(266, 112), random_sizes(40_000, 8), huge, corners])


SIZES = _varied_sizes()

# -- wrong sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, -1, 2**31, 2**32 + 5, 2**63 - 1, 2**63, 2**70, -(2**70)])
def test_side_out_of_range(side: int) -> None:
    for sizes in ({"height": side, "width": 5}, {"height": 5, "width": side}):
        name = "height" if sizes["width"] == 5 else "width"
        with pytest.raises(ValueError, match=rf"{name} must be in 1\.\.2147483647.*got {side}$"):
            mc.layout(MOLMO, **sizes)


@pytest.mark.parametrize("side", [1.0, 1.5, float("nan"), float("inf"), "10", None, np.float64(10.5), [10]])
def test_side_that_is_no_integer(side: Any) -> None:
    with pytest.raises(TypeError, match="height must be an integer"):
        mc.layout(MOLMO, height=side, width=10)


@pytest.mark.parametrize("call", ["height", "max_crops", "worst_case"])
def test_bool_is_no_integer(call: str) -> None:
    with pytest.raises(TypeError, match="must be an integer"):  # noqa: PT012
        if call == "height":
            mc.layout(MOLMO, height=True, width=10)
        elif call == "max_crops":
            mc.layout(MOLMO, height=10, width=10, max_crops=True)
        else:
            mc.worst_case(MOLMO, max_crops=True)


def test_numpy_integers_are_integers() -> None:
    layout = mc.layout(MOLMO, height=np.int32(1080), width=np.uint16(1920), max_crops=np.int64(12))
    assert layout.sequence_tokens == 1196
    assert mc.worst_case(MOLMO, max_crops=np.int16(12)).tokens == 1460


@pytest.mark.parametrize("bad", [(0, 5), (5, 0), (-1, 5), (5, 2**31), (2**62, 1), (-(2**63), 1)])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_batch_names_the_first_bad_row(spec: mc.Spec, bad: tuple[int, int]) -> None:
    for row in (0, 700, 9999):
        sizes = random_sizes(10_000, 1)
        sizes[row] = bad
        sizes[9999] = bad
        for function in BATCH:
            with pytest.raises(ValueError, match=rf"sizes\[{row}\] must .*{re.escape(str(bad))}"):
                function(spec, sizes)


def test_first_bad_row_of_many_threads() -> None:
    sizes = random_sizes(200_000, 1)
    sizes[[60_001, 130_000, 199_999]] = 0
    for function in BATCH:
        with pytest.raises(ValueError, match=r"sizes\[60001\]"):
            function(MOLMO, sizes, num_threads=4)


@pytest.mark.parametrize("function", BATCH)
@pytest.mark.parametrize(
    "sizes",
    [
        [(1.0, 2.0)],
        [(float("nan"), 1)],
        np.ones((3, 2), dtype=np.float32),
        np.ones((3, 2), dtype=bool),
        np.ones((3, 2), dtype=object),
        np.ones((3, 2), dtype=complex),
        np.ones((3, 2), dtype="timedelta64[s]"),
        [("1", "2")],
    ],
)
def test_sizes_that_are_no_integers(function: Callable[..., Any], sizes: Any) -> None:
    with pytest.raises(TypeError, match="sizes must be integers"):
        function(MOLMO, sizes)


@pytest.mark.parametrize("function", BATCH)
@pytest.mark.parametrize("shape", [(3, 3), (3, 1), (4,), (2,), (), (2, 2, 2), (0, 0, 2)])
def test_sizes_of_a_wrong_shape(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape("must have shape [N, 2] with (height, width) rows, got shape")):
        function(MOLMO, np.ones(shape, dtype=np.int64))


def test_uint64_beyond_int64() -> None:
    sizes = np.array([[5, 5], [2**64 - 1, 1]], dtype=np.uint64)
    with pytest.raises(ValueError, match=r"sizes\[1\] must be in 1\.\.2147483647"):
        mc.count_tokens(MOLMO, sizes)
    assert mc.count_tokens(MOLMO, sizes[:1]).tolist() == [316]


# -- right sizes in any array ---------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [[], np.empty((0, 2)), np.empty((0, 2), dtype=np.int32), ()])
def test_no_sizes(empty: Any) -> None:
    assert mc.count_tokens(MOLMO, empty).shape == (0,)
    assert mc.grids(MOLMO, empty).shape == (0, 2)
    assert mc.scales(MOLMO, empty).shape == (0,)


@pytest.mark.parametrize("spec", [MOLMO, SPECS["idefics3"]], ids=["molmo", "idefics3"])
def test_array_layout_and_dtype_do_not_matter(spec: mc.Spec) -> None:
    sizes = random_sizes(3001, 4)
    wide = np.zeros((3001, 5), dtype=np.int64)
    wide[:, 1:4:2] = sizes
    every_other = np.repeat(sizes, 2, axis=0)[::2]
    read_only = sizes.copy()
    read_only.flags.writeable = False
    reversed_twice = sizes[::-1].copy()[::-1]
    misaligned = np.frombuffer(b"x" + sizes.tobytes(), dtype=np.uint8)[1:].view(np.int64).reshape(-1, 2)
    arrays: list[Any] = [
        np.asfortranarray(sizes), wide[:, 1:4:2], every_other, read_only, reversed_twice, misaligned, sizes.tolist(),
        sizes.astype(">i8"), *(sizes.astype(dtype) for dtype in ("i4", "u2", "u4", "i2", "u8")),
    ]  # fmt: skip
    for function in BATCH:
        expected = function(spec, sizes)
        for array in arrays:
            assert np.array_equal(function(spec, array), expected)
    assert np.array_equal(sizes, random_sizes(3001, 4))  # arguments are only read


# -- wrong knobs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_crops", [0, -1, 2**20 + 1, 10**9, 2**63 - 1, 2**63, 2**70, -(2**70)])
def test_max_crops_out_of_range(max_crops: int) -> None:
    for spec in SPECS.values():
        message = rf"max_crops must be in \d+\.\.1048576, got {max_crops}"
        with pytest.raises(ValueError, match=message):
            mc.layout(spec, height=10, width=10, max_crops=max_crops)
        with pytest.raises(ValueError, match=message):
            mc.worst_case(spec, max_crops=max_crops)
        for function in BATCH:
            with pytest.raises(ValueError, match=message):
                function(spec, [(10, 10)], max_crops=max_crops)


@pytest.mark.parametrize("max_crops", [1.0, 12.5, float("nan"), "12", np.float64(12), [12], (1, 2)])
def test_max_crops_that_is_no_integer(max_crops: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: mc.layout(MOLMO, height=10, width=10, max_crops=max_crops),
        lambda: mc.worst_case(MOLMO, max_crops=max_crops),
        *(lambda f=f: f(MOLMO, [(10, 10)], max_crops=max_crops) for f in BATCH),  # type: ignore[misc]
    ]
    for call in calls:
        with pytest.raises(TypeError, match="max_crops must be an integer"):
            call()


@pytest.mark.parametrize("function", BATCH)
@pytest.mark.parametrize("knob", ["max_crops", "num_threads"])
def test_bool_is_no_integer_in_a_batch(function: Callable[..., Any], knob: str) -> None:
    with pytest.raises(TypeError, match=f"{knob} must be an integer, got True"):
        function(MOLMO, [(10, 10)], **{knob: True})


def test_largest_max_crops_wants_an_integer() -> None:
    for max_tokens in (4096.0, float("nan"), "4096", None, True):
        with pytest.raises(TypeError, match="max_tokens must be an integer"):
            mc.largest_max_crops(MOLMO, max_tokens=max_tokens)  # type: ignore[arg-type]
    for max_tokens in (0, -1, 315):
        with pytest.raises(mc.BudgetTooSmallError, match="must be >= 316"):
            mc.largest_max_crops(MOLMO, max_tokens=max_tokens)
    with pytest.raises(ValueError, match="max_tokens"):
        mc.largest_max_crops(MOLMO, max_tokens=2**70)


def test_max_crops_beyond_the_range_acts_like_the_last() -> None:
    sizes = random_sizes(2000, 5)
    for name in ("llava", "llava class", "idefics3", "smolvlm"):
        spec = SPECS[name]
        last = spec.max_crops_range[1]
        for beyond in (last + 1, last + 1000, 2**20):
            assert np.array_equal(mc.grids(spec, sizes, max_crops=beyond), mc.grids(spec, sizes, max_crops=last))


@pytest.mark.parametrize("num_threads", [0, -1, 1025, 2**31, 2**70])
def test_num_threads_out_of_range(num_threads: int) -> None:
    for function in BATCH:
        with pytest.raises(ValueError, match="num_threads must be in"):
            function(MOLMO, [(10, 10)], num_threads=num_threads)


def test_count_that_is_not_known() -> None:
    for count in ("tokens", "", 3, None):
        with pytest.raises(ValueError, match="count must be one of sequence_tokens, connector_outputs, vit_patches"):
            mc.count_tokens(MOLMO, [(1, 1)], count=count)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="count must be one of"):
            mc.worst_case(MOLMO, count=count)  # type: ignore[arg-type]


def test_spec_that_is_none() -> None:
    calls: list[Callable[[Any], object]] = [
        lambda spec: mc.layout(spec, height=10, width=10),
        mc.worst_case,
        lambda spec: mc.largest_max_crops(spec, max_tokens=4096),
        *(lambda spec, f=f: f(spec, [(10, 10)]) for f in BATCH),  # type: ignore[misc]
    ]
    for call in calls:
        for spec in ("molmo", None, 3, object()):
            with pytest.raises(TypeError, match="spec must be a Spec"):
                call(spec)


# -- specs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"), [("molmo-7b", "molmo-7b-d"), ("llava-next-7b", "llava_next"), ("intern-vl", "internvl")]
)
def test_unknown_name_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(mc.UnknownSpecError, match=f"nearest known ones are .*{near}"):
        mc.get_spec(name)
    with pytest.raises(KeyError):
        mc.get_spec(name)


def test_name_like_none_lists_all() -> None:
    with pytest.raises(mc.UnknownSpecError) as error:
        mc.get_spec("@@@@")
    assert all(key in str(error.value) for key in mc.list_specs())


def test_unknown_field_lists_the_fields() -> None:
    with pytest.raises(TypeError, match=r"molmo has no field 'max_tiles'; it has .*\bcrop_size\b.*\bmax_crops\b"):
        mc.get_spec("molmo", max_tiles=3)
    with pytest.raises(TypeError, match=r"has no field 'max_crops'; it has .*image_grid_pinpoints"):
        mc.get_spec("llava_next").replace(max_crops=3)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("molmo", {"max_crops": 0}, "max_crops must be in"),
        ("molmo", {"overlap_margins": (12, 12)}, "overlap_margins must leave a window"),
        ("molmo", {"overlap_margins": (3, 4)}, "overlap_margins must be multiples of pooling"),
        ("molmo", {"crop_size": 335}, "must be a multiple of patch_size"),
        ("molmo", {"crop_mode": "squash"}, "crop_mode of molmo must be one of"),
        ("molmo2", {"variant": "evaluation"}, "variant of molmo2 must be one of"),
        ("llava_next", {"image_grid_pinpoints": []}, "resolutions must name at least one"),
        ("llava_next", {"image_grid_pinpoints": [(100, 300)]}, "a height in resolutions must be in 224"),
        ("idefics3", {"longest_edge": 0}, "longest_edge must be in"),
        ("internvl", {"min_patches": 0}, "min_crops must be in"),
    ],
)
def test_value_that_does_not_fit_is_named(key: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mc.get_spec(key, **changes)


@pytest.mark.parametrize("key", mc.list_specs())
def test_spec_survives_pickling_and_copying(key: str) -> None:
    spec = mc.get_spec(key)
    expected = mc.count_tokens(spec, SIZES[:500])
    for twin in (pickle.loads(pickle.dumps(spec)), copy.copy(spec), copy.deepcopy(spec)):
        assert twin == spec
        assert hash(twin) == hash(spec)
        assert np.array_equal(mc.count_tokens(twin, SIZES[:500]), expected)
        assert mc.worst_case(twin, **within(spec)) == mc.worst_case(spec, **within(spec))


def test_spec_survives_another_process(tmp_path: Path) -> None:
    (tmp_path / "spec").write_bytes(pickle.dumps(SPECS["molmo2, training"]))
    code = (
        "import pickle, maxcrops as mc;"
        "print(mc.layout(pickle.load(open('spec', 'rb')), height=100, width=2000).sequence_tokens)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1348"


def test_a_choice_taken_back_restores_the_rule_it_replaced() -> None:
    whole = mc.get_spec("molmo", max_crops=20)
    one_crop = whole.replace(crop_mode="resize")
    assert one_crop.grid.policy == "fixed"
    assert one_crop.replace(crop_mode="overlap-and-resize-c2") == whole


def test_a_changed_spec_is_no_published_one() -> None:
    assert mc.get_spec("molmo-7b-d").checkpoints == ("allenai/Molmo-7B-D-0924",)
    assert mc.get_spec("molmo-7b-d", max_crops=20).checkpoints == ()


@pytest.mark.parametrize(
    ("key", "max_crops", "setting"),
    [
        ("molmo-7b-d", 20, 20),
        ("internvl", 6, 6),
        ("idefics3-8b-llama3", 9, 3 * 364),
        ("llava-v1.6-mistral-7b", 3, ((336, 672), (672, 336), (1008, 336), (336, 1008))),
    ],
)
def test_the_knob_in_the_model_s_own_unit(key: str, max_crops: int, setting: object) -> None:
    spec = mc.get_spec(key)
    assert spec.knob_at(max_crops) == setting
    changed = spec.replace(**{spec.grid.knob_field: setting})
    assert mc.worst_case(changed) == mc.worst_case(spec, max_crops=max_crops)


def test_spec_is_frozen() -> None:
    for name in ("key", "grid", "max_crops"):
        with pytest.raises(AttributeError):
            setattr(mc.get_spec("molmo"), name, 3)


# -- one answer -----------------------------------------------------------------------------------------------


def test_unknown_isa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ", ".join(_core.available_isas())
    monkeypatch.setenv("MAXCROPS_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=f"must be one of {known} on this machine, got mmx"):
        _core.active_isa()
    with pytest.raises(ValueError, match="MAXCROPS_CPU_ISA"):
        mc.count_tokens(MOLMO, [(10, 10)])
    monkeypatch.setenv("MAXCROPS_CPU_ISA", "")
    assert _core.active_isa() == _core.available_isas()[-1]


@pytest.mark.parametrize("max_crops", [1, 2, 7, 12, 36, 1000, 2**20])
@pytest.mark.parametrize("name", ["molmo", "molmo2", "molmo2, training"])
def test_isas_and_threads_agree(name: str, max_crops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[name]
    answers = []
    for isa in _core.available_isas():
        monkeypatch.setenv("MAXCROPS_CPU_ISA", isa)
        assert _core.active_isa() == isa
        for threads in (1, 3):
            knobs = {"max_crops": max_crops, "num_threads": threads}
            counts = [mc.count_tokens(spec, SIZES, count=count, **knobs) for count in COUNTS]
            answers.append(np.column_stack([*counts, mc.grids(spec, SIZES, **knobs)]))
    for answer in answers[1:]:
        differ = (answer != answers[0]).any(axis=1)
        assert SIZES[differ][:5].tolist() == []


@pytest.mark.parametrize("name", SPECS)
def test_thread_counts_agree(name: str) -> None:
    spec = SPECS[name]
    sizes = np.tile(SIZES, (2, 1))
    for function in BATCH:
        expected = function(spec, sizes)
        for threads in (2, 5, 64, 1024):
            assert np.array_equal(function(spec, sizes, num_threads=threads), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 15, 16, 17, 511, 512, 513, 1025])
def test_any_length_of_batch(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mc.count_tokens(MOLMO, SIZES[:2000])
    for isa in _core.available_isas():
        monkeypatch.setenv("MAXCROPS_CPU_ISA", isa)
        for start in (0, 1, 5):
            part = mc.count_tokens(MOLMO, SIZES[start : start + length])
            assert np.array_equal(part, expected[start : start + length])


@pytest.mark.parametrize("name", SPECS)
def test_batch_equals_layout(name: str) -> None:
    spec = SPECS[name]
    sizes = SIZES[::23]
    first = spec.max_crops_range[0]
    for max_crops in (None, first, first + 6):
        layouts = [mc.layout(spec, height=h, width=w, max_crops=max_crops) for h, w in sizes.tolist()]
        assert mc.grids(spec, sizes, max_crops=max_crops).tolist() == [list(x.grid) for x in layouts]
        assert mc.scales(spec, sizes, max_crops=max_crops).tolist() == [x.scale for x in layouts]
        for count in COUNTS:
            field = "num_crops" if count == "crops" else count
            batch = mc.count_tokens(spec, sizes, max_crops=max_crops, count=count)
            assert batch.tolist() == [getattr(x, field) for x in layouts]


def test_many_python_threads_at_once() -> None:
    jobs = [(spec, n) for spec in SPECS.values() for n in (10, 12, 40)] * 4
    expected = {(spec, n): mc.count_tokens(spec, SIZES[:5000], max_crops=n) for spec, n in jobs}

    def work(job: tuple[mc.Spec, int]) -> bool:
        spec, n = job
        counts = mc.count_tokens(pickle.loads(pickle.dumps(spec)), SIZES[:5000], max_crops=n, num_threads=2)
        bound = mc.worst_case(spec, max_crops=n)
        layout = mc.layout(spec, height=bound.witness[0], width=bound.witness[1], max_crops=n)
        return np.array_equal(counts, expected[job]) and layout.sequence_tokens == bound.tokens

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, jobs))


def test_counting_leaves_the_gil_to_others() -> None:
    spec = SPECS["internvl"]
    sizes = random_sizes(3_000_000, 3)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.002):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        begin = time.perf_counter()
        mc.count_tokens(spec, sizes, max_crops=600)
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    assert end - begin > 0.2, "too quick to tell; count more"
    fifth = (end - begin) / 5  # inside the call, away from its ends, where Python holds the lock anyway
    assert len([at for at in ticks if begin + fifth < at < end - fifth]) >= 5


# -- properties -----------------------------------------------------------------------------------------------

sides = st.one_of(st.integers(1, 130), st.integers(1, 9000), st.integers(1, 2**31 - 1))


@st.composite
def images(draw: st.DrawFn) -> tuple[mc.Spec, int | None, int, int]:
    spec = SPECS[draw(st.sampled_from(sorted(SPECS)))]
    max_crops = draw(st.none() | st.integers(spec.max_crops_range[0], 150))
    return spec, max_crops, draw(sides), draw(sides)


@given(images())
def test_crops_stay_within_max_crops(image: tuple[mc.Spec, int | None, int, int]) -> None:
    spec, max_crops, height, width = image
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    limit = spec.max_crops if max_crops is None else max_crops
    rows, cols = layout.grid
    assert rows * cols <= limit
    assert layout.num_crops == rows * cols + layout.has_global <= limit + 1
    assert min(layout.sequence_tokens, layout.connector_outputs, layout.vit_patches) > 0


@given(images())
def test_crops_cover_the_canvas_and_overlap_by_the_margins(image: tuple[mc.Spec, int | None, int, int]) -> None:
    spec, max_crops, height, width = image
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    rows, cols = layout.grid
    overlap = sum(layout.margins)
    assert sum(len(view.crops) for view in layout.views) == layout.num_crops
    assert [view.is_global for view in layout.views].count(True) == layout.has_global
    for view in layout.views:
        if view.is_global:
            assert view.canvas == (spec.crop_size, spec.crop_size)
            assert view.crops == [(0, 0, spec.crop_size, spec.crop_size)]
            continue
        assert view.canvas == layout.canvas
        assert len(view.crops) == rows * cols
        for axis, count in ((0, rows), (1, cols)):
            step = cols if axis == 0 else 1
            line = [view.crops[at * step] for at in range(count)]
            starts = [crop[axis] for crop in line]
            ends = [crop[axis] + crop[axis + 2] for crop in line]
            assert starts[0] == 0
            assert ends[-1] == layout.canvas[axis]
            assert all(end - start == overlap for start, end in zip(starts[1:], ends, strict=False))
            assert all(end - start == spec.crop_size for start, end in zip(starts[:-1], ends, strict=False))
        assert view.crops == [
            (*(view.crops[r * cols][0], view.crops[c][1]), view.crops[r * cols][2], view.crops[c][3])
            for r in range(rows)
            for c in range(cols)
        ]


@given(images())
def test_content_lies_within_the_canvas(image: tuple[mc.Spec, int | None, int, int]) -> None:
    spec, max_crops, height, width = image
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    boxes = [(layout.content, layout.canvas), *((view.content, view.canvas) for view in layout.views)]
    for (top, left, content_height, content_width), canvas in boxes:
        assert min(top, left, content_height, content_width) >= 0
        assert top + content_height <= canvas[0]
        assert left + content_width <= canvas[1]
        assert content_height == canvas[0] or content_width == canvas[1] or spec.family == "molmo"
        # Centred: the odd pixel goes behind.
        assert canvas[0] - content_height - 2 * top in (0, 1)
        assert canvas[1] - content_width - 2 * left in (0, 1)
    for view in layout.views:
        assert view.resizes[-1] == view.content[2:]


@given(images())
def test_batch_of_one_equals_layout(image: tuple[mc.Spec, int | None, int, int]) -> None:
    spec, max_crops, height, width = image
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    sizes = [(height, width)]
    assert mc.grids(spec, sizes, max_crops=max_crops).tolist() == [list(layout.grid)]
    assert mc.count_tokens(spec, sizes, max_crops=max_crops).tolist() == [layout.sequence_tokens]


@given(
    st.sampled_from(sorted(SPECS)),
    hnp.arrays(np.int64, st.tuples(st.integers(1, 60), st.just(2)), elements=sides),
    st.randoms(use_true_random=False),
)
def test_permuting_a_batch_permutes_the_counts(name: str, sizes: npt.NDArray[np.int64], random: Any) -> None:
    order = list(range(len(sizes)))
    random.shuffle(order)
    for function in BATCH:
        assert np.array_equal(function(SPECS[name], sizes[order]), function(SPECS[name], sizes)[order])


@pytest.mark.parametrize("name", ["molmo", "molmo2", "molmo2, training", "internvl"])
def test_tokens_do_not_fall_as_max_crops_grows(name: str) -> None:
    """A larger knob adds grids of more crops only, and one of them is taken when it is better."""
    spec = SPECS[name]
    sizes = np.concatenate([random_sizes(5000, 2), edge_sizes(224, 112)[::3]])
    before = mc.count_tokens(spec, sizes, max_crops=1)
    for max_crops in range(2, 120):
        tokens = mc.count_tokens(spec, sizes, max_crops=max_crops)
        assert (tokens >= before).all(), sizes[tokens < before][:3].tolist()
        before = tokens
