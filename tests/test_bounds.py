"""Bounds are the maxima that brute force finds, and images attain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sizes import random_sizes, within

import maxcrops as mc
from maxcrops._bounds import is_bounded

MAX_CROPS = range(1, 513)


def _distinct() -> dict[str, mc.Spec]:
    """Every known spec, once for equal rules."""
    specs: dict[object, mc.Spec] = {}
    for key in mc.list_specs():
        spec = mc.get_spec(key)
        specs.setdefault((spec.grid, spec.crop, spec.tokens), spec)
    return {spec.key: spec for spec in specs.values()}


SPECS = _distinct()
FORMULAS = ("molmo", "molmo2", "internvl")
"""Families whose counts have a formula here."""
GRID_SPECS = {
    **{key: spec for key, spec in SPECS.items() if spec.family in FORMULAS},
    "molmo2, training": mc.get_spec("molmo2-8b", variant="training"),
    "internvl, at least 4": mc.get_spec("internvl3-8b", min_patches=4),
}
LISTED_SPECS = {
    **{key: spec for key, spec in SPECS.items() if spec.family == "llava_next"},
    "llava, 16 resolutions": mc.get_spec(
        "llava-v1.6-mistral-7b",
        image_grid_pinpoints=[(336 * r, 336 * c) for r in range(1, 5) for c in range(1, 5)],
    ),
}
CEIL_SPECS = {key: spec for key, spec in SPECS.items() if spec.family in ("idefics3", "smolvlm")}


def ceil(a: int, b: int) -> int:
    return -(-a // b)


# -- token formulas, apart from the package's -----------------------------------------------------------------


def molmo_tokens(rows: int, cols: int) -> int:
    return 158 + 2 + (8 * rows + 4) * (8 * cols + 4 + 1)


def molmo2_map(rows: int, cols: int) -> tuple[int, int]:
    return ceil(19 * rows + 8, 2), ceil(19 * cols + 8, 2)


def molmo2_tokens(rows: int, cols: int, low_res: int) -> int:
    map_rows, map_cols = molmo2_map(rows, cols)
    return low_res + 2 + map_rows * (map_cols + 1)


def internvl_tokens(rows: int, cols: int) -> int:
    return 258 if rows * cols == 1 else 2 + 256 * (rows * cols + 1)


def idefics_tokens(rows: int, cols: int, per_crop: int) -> int:
    return per_crop + 3 + rows * ((per_crop + 2) * cols + 1)


def grid_formulas(spec: mc.Spec) -> dict[str, Callable[[int, int], int]]:
    """What a grid costs, per count."""
    if spec.family == "molmo":
        return {
            "sequence_tokens": molmo_tokens,
            "connector_outputs": lambda r, c: 144 * (r * c + 1),
            "vit_patches": lambda r, c: 576 * (r * c + 1),
            "crops": lambda r, c: r * c + 1,
        }
    if spec.family == "molmo2":
        low_res = 212 if spec.key == "molmo2" else 198
        return {
            "sequence_tokens": lambda r, c: molmo2_tokens(r, c, low_res),
            "connector_outputs": lambda r, c: 196 + int(np.prod(molmo2_map(r, c))),
            "vit_patches": lambda r, c: 729 * (r * c + 1),
            "crops": lambda r, c: r * c + 1,
        }
    assert spec.family == "internvl"
    patches = 27**2 if spec.crop_size == 384 else 32**2
    return {
        "sequence_tokens": internvl_tokens,
        "connector_outputs": lambda r, c: 256 * (r * c + (r * c > 1)),
        "vit_patches": lambda r, c: patches * (r * c + (r * c > 1)),
        "crops": lambda r, c: r * c + (r * c > 1),
    }


def assert_witness(spec: mc.Spec, bound: mc.Bound, max_crops: int | None, count: str) -> None:
    height, width = bound.witness
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    field = "num_crops" if count == "crops" else count
    assert (layout.grid, getattr(layout, field)) == (bound.grid, bound.tokens)
    assert not layout.is_refused


# -- brute force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["sequence_tokens", "connector_outputs", "vit_patches", "crops"])
@pytest.mark.parametrize("name", GRID_SPECS)
def test_bound_is_the_maximum_over_all_grids(name: str, count: str) -> None:
    spec = GRID_SPECS[name]
    cost = grid_formulas(spec)[count]
    fewest = getattr(spec.grid, "min_crops", 1)
    most = cost(1, 1)  # with no grid to choose from, one crop
    for max_crops in MAX_CROPS:
        costs = [cost(r, max_crops // r) for r in range(1, max_crops + 1) if max_crops % r == 0]
        if max_crops == fewest:
            most = 0
        if max_crops >= fewest:
            most = max(most, *costs)
        bound = mc.worst_case(spec, max_crops=max_crops, count=count)
        assert bound.tokens == most, max_crops
        assert cost(*bound.grid) == most
        assert_witness(spec, bound, max_crops, count)


def llava_tokens(spec: mc.Spec, height: int, width: int) -> int:
    """Of an image that fills the resolution: nothing is dropped."""
    side = spec.crop_size // 14
    return side**2 + side * (height // spec.crop_size) * (side * (width // spec.crop_size) + 1)


@pytest.mark.parametrize("name", LISTED_SPECS)
def test_bound_is_the_maximum_over_the_list(name: str) -> None:
    spec = LISTED_SPECS[name]
    crops = {size: ceil(size[0], spec.crop_size) * ceil(size[1], spec.crop_size) for size in spec.resolutions}
    first, last = min(crops.values()), max(crops.values())
    assert spec.max_crops_range == (first, last)
    for max_crops in MAX_CROPS:
        if max_crops < first:
            with pytest.raises(ValueError, match=f"max_crops must be in {first}"):
                mc.worst_case(spec, max_crops=max_crops)
            continue
        kept = [size for size in spec.resolutions if crops[size] <= max_crops]
        bound = mc.worst_case(spec, max_crops=max_crops)
        assert bound.tokens == max(llava_tokens(spec, *size) for size in kept)
        assert_witness(spec, bound, max_crops, "sequence_tokens")
        assert mc.worst_case(spec, max_crops=max_crops, count="crops").tokens == 1 + max(crops[s] for s in kept)


def _all_ratios(longest: int) -> npt.NDArray[np.int64]:
    """Every short side of long sides of `longest` and twice that, both ways round, and random sizes."""
    sizes = [random_sizes(20_000, seed=longest)]
    for long in (longest, 2 * longest):
        short = np.arange(1, long + 1)
        sizes += [np.column_stack([short, np.full(long, long)]), np.column_stack([np.full(long, long), short])]
    return np.concatenate(sizes)


@pytest.mark.parametrize("key", CEIL_SPECS)
def test_bound_is_the_maximum_over_all_short_sides(key: str) -> None:
    spec = CEIL_SPECS[key]
    side_limit = ceil(4096, spec.crop_size)

    @cache
    def brute_force(side: int) -> dict[str, int]:
        sizes = _all_ratios(side * spec.crop_size)
        grids = mc.grids(spec, sizes, max_crops=side**2)
        tokens = [idefics_tokens(r, c, spec.tokens_per_crop) for r, c in np.unique(grids, axis=0).tolist()]
        counted = mc.count_tokens(spec, sizes, max_crops=side**2)
        assert counted.max() == max(tokens)
        return {"sequence_tokens": max(tokens), "crops": int(grids.prod(axis=1).max()) + 1}

    for max_crops in MAX_CROPS:
        for count, most in brute_force(min(isqrt(max_crops), side_limit)).items():
            bound = mc.worst_case(spec, max_crops=max_crops, count=count)
            assert bound.tokens == most, max_crops
            assert_witness(spec, bound, max_crops, count)


@pytest.mark.parametrize("key", ["idefics3", "smolvlm-256m-instruct"])
def test_bound_at_any_longest_edge(key: str) -> None:
    for edge in [1, 2, 3, 363, 364, 365, 366, 511, 513, 727, 728, 729, 1000, 1455, 1457, 2047, 4095, 4097, 5000]:
        spec = mc.get_spec(key, longest_edge=edge)
        bound = mc.worst_case(spec)
        assert bound.tokens == mc.count_tokens(spec, _all_ratios(max(edge, 100))).max(), edge
        assert bound.tokens <= mc.worst_case(spec, max_crops=spec.max_crops).tokens
        assert_witness(spec, bound, None, "sequence_tokens")


def _rich_sizes(spec: mc.Spec, max_crops: int) -> npt.NDArray[np.int64]:
    """Multiples of the crop size and a little more or less for every grid, listed resolutions, and a mixture."""
    crop = spec.crop_size
    grids = [(r, c) for r in range(1, max_crops + 1) for c in range(1, max_crops // r + 1)]
    sizes = [
        (max(1, round(r * crop * zoom) + d), max(1, round(c * crop * zoom) + d))
        for r, c in grids
        for zoom in (0.5, 0.72, 1.0, 1.05, 2.0)
        for d in (-1, 0, 1)
    ]
    if spec.grid.policy == "best_resolution":
        sizes += [(h // z + d, w // z) for h, w in spec.resolutions for z in (1, 2) for d in range(-9, 10)]
    if spec.grid.policy == "ceil_grid":
        sizes += _all_ratios(spec.longest_edge)[::3].tolist()
    listed = np.array(sizes, dtype=np.int64)
    return np.concatenate([listed[(listed >= 1).all(axis=1)], random_sizes(30_000, seed=max_crops)])


@pytest.mark.parametrize("key", SPECS)
def test_no_size_exceeds_the_bound_and_some_attain_it(key: str) -> None:
    spec = SPECS[key]
    first, last = spec.max_crops_range
    for max_crops in sorted({min(max(value, first), last) for value in (spec.max_crops, 1, 2, 7, 16)}):
        sizes = _rich_sizes(spec, max_crops)
        limit = {}
        if spec.unbounded is not None:
            sizes = sizes[sizes.max(axis=1) <= 700]
            limit = {"max_side": 700}
        for count in ("sequence_tokens", "connector_outputs", "vit_patches", "crops", "cross_attention_keys"):
            if not limit and not is_bounded(spec, count):
                with pytest.raises(mc.UnboundedError, match=f"no worst case of {count}"):
                    mc.worst_case(spec, max_crops=max_crops, count=count)
                continue
            bound = mc.worst_case(spec, max_crops=max_crops, count=count, **limit)
            most = int(mc.count_tokens(spec, sizes, max_crops=max_crops, count=count).max())
            assert most <= bound.tokens, (max_crops, count)
            # Of all images within a limit, one in a hundred is in the sample.
            assert most == bound.tokens or limit, (max_crops, count, bound)
            assert_witness(spec, bound, max_crops, count)


def all_sizes(max_side: int) -> npt.NDArray[np.int64]:
    sides = np.arange(1, max_side + 1)
    return np.stack(np.meshgrid(sides, sides, indexing="ij"), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("key", SPECS)
def test_bound_within_any_limit_is_the_maximum_over_all_of_it(key: str) -> None:
    """With crops of their own size and scaled down, so that all that larger images do is done by small ones too."""
    own = SPECS[key]
    small = [{"crop_size": 16 * own.patch_size}] if own.unbounded or own.grid.policy == "closest_ratio" else []
    for spec in [own, *(own.replace(**changes) for changes in small)]:
        for max_side, max_ratio in ((1, None), (96, None), (250, None), (250, 1.7), (251, 5)):
            sizes = all_sizes(max_side)
            kept = sizes[sizes.max(axis=1) <= (max_ratio or max_side) * sizes.min(axis=1)]
            if spec.sizing == "edges" and spec.grid.policy == "fixed":
                kept = kept[kept.min(axis=1) >= max(1, spec.rows)]  # the processor cuts no side of 1 px in two
                if not len(kept):
                    with pytest.raises(ValueError, match="takes no image of up to 1 px"):
                        mc.worst_case(spec, max_side=max_side)
                    continue
            for max_crops in {spec.max_crops, *(n for n in (2, 7, 23) if n >= spec.max_crops_range[0])}:
                for count in ("sequence_tokens", "vit_patches", "crops"):
                    bound = mc.worst_case(
                        spec, max_crops=max_crops, count=count, max_side=max_side, max_ratio=max_ratio
                    )
                    assert bound.tokens == mc.count_tokens(spec, kept, max_crops=max_crops, count=count).max()
                    assert_witness(spec, bound, max_crops, count)
                    assert max(bound.witness) <= max_side
                    assert max(bound.witness) <= (max_ratio or max_side) * min(bound.witness)


@pytest.mark.parametrize("key", ["lfm2_vl", "minicpmv4_6", "step3p7"])
def test_bound_within_a_limit_is_the_maximum_over_all_of_it(key: str) -> None:
    spec = mc.get_spec(key)
    sizes = all_sizes(799)
    tokens = mc.count_tokens(spec, sizes, num_threads=2)
    thin = sizes.max(axis=1) > 3 * sizes.min(axis=1)
    assert mc.worst_case(spec, max_side=799, num_threads=2).tokens == tokens.max()
    assert mc.worst_case(spec, max_side=799, max_ratio=3).tokens == tokens[~thin].max()
    with pytest.raises(mc.UnboundedError, match=r"has no worst case: .*max_side=4096"):
        mc.worst_case(spec)
    with pytest.raises(mc.UnboundedError, match="max_side"):
        mc.largest_max_crops(spec, max_tokens=4096)
    assert mc.worst_case(spec, max_side=64) == mc.worst_case(spec, max_side=64, num_threads=3)


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        ({"max_side": 0}, ValueError, "max_side must be in 1..32768 pixels, got 0"),
        ({"max_side": 40000}, ValueError, "max_side must be in 1..32768 pixels, got 40000"),
        ({"max_side": 2.5}, TypeError, "max_side must be an integer, got 2.5"),
        ({"max_ratio": 2}, ValueError, "max_ratio needs max_side"),
        ({"max_side": 9, "max_ratio": 0.5}, ValueError, "max_ratio must be at least 1, got 0.5"),
        ({"max_side": 9, "max_ratio": "2"}, TypeError, "max_ratio must be a number, got '2'"),
        ({"max_side": 9, "num_threads": 0}, ValueError, "num_threads must be in 1..1024, got 0"),
    ],
)
def test_a_limit_that_is_none_is_named(limit: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mc.worst_case(mc.get_spec("lfm2_vl"), **limit)


@pytest.mark.parametrize("rows_cols", [(0, 0), (1, 1), (2, 3)])
def test_bound_of_a_fixed_grid(rows_cols: tuple[int, int]) -> None:
    choice = {"do_image_splitting": "false"} if rows_cols == (0, 0) else {}
    spec = mc.get_spec("idefics3", **choice)
    if choice == {}:
        spec = mc.get_spec("internvl", crop_to_patches=False).replace(rows=rows_cols[0], cols=rows_cols[1])
    tokens = set(mc.count_tokens(spec, random_sizes(1000, seed=4)).tolist())
    assert tokens == {mc.worst_case(spec).tokens}
    assert tokens == {172 if choice else internvl_tokens(*rows_cols)}


# -- the inverse ----------------------------------------------------------------------------------------------

ALL_SPECS = {
    **GRID_SPECS,
    **LISTED_SPECS,
    **{key: spec for key, spec in SPECS.items() if spec.unbounded is None},
}


@pytest.mark.parametrize(
    ("key", "expected"), [("molmo", (37, 32, 27)), ("molmo-7b-d", (37, 32, 27)), ("molmo2", (26, 23, 19))]
)
def test_largest_max_crops_within_4096(key: str, expected: tuple[int, int, int]) -> None:
    found = [mc.largest_max_crops(mc.get_spec(key), max_tokens=4096 - text) for text in (0, 512, 1024)]
    assert tuple(found) == expected


@pytest.mark.parametrize("name", ALL_SPECS)
def test_largest_fits_and_the_next_does_not(name: str) -> None:
    spec = ALL_SPECS[name]
    first, last = spec.max_crops_range
    smallest = mc.worst_case(spec, max_crops=first).tokens
    budgets = np.unique(np.geomspace(smallest, 60_000, 60).astype(int)).tolist()
    exact = [mc.worst_case(spec, max_crops=n).tokens for n in range(first, min(last, 30) + 1)]
    short = [tokens - 1 for tokens in exact if tokens > smallest]
    for budget in [*budgets, *exact, *short]:
        largest = mc.largest_max_crops(spec, max_tokens=budget)
        assert mc.worst_case(spec, max_crops=largest).tokens <= budget
        assert largest == last or mc.worst_case(spec, max_crops=largest + 1).tokens > budget
    with pytest.raises(mc.BudgetTooSmallError, match=f">= {smallest} "):
        mc.largest_max_crops(spec, max_tokens=smallest - 1)


@pytest.mark.parametrize("count", ["connector_outputs", "vit_patches", "crops"])
def test_largest_of_other_counts(count: str) -> None:
    spec = mc.get_spec("molmo")
    for limit in (600, 5000, 20_000):
        if count == "crops":
            limit //= 100
        if mc.worst_case(spec, max_crops=1, count=count).tokens > limit:
            continue
        largest = mc.largest_max_crops(spec, max_tokens=limit, count=count)
        bounds = [mc.worst_case(spec, max_crops=n, count=count).tokens for n in (largest, largest + 1)]
        assert bounds[0] <= limit < bounds[1]


@pytest.mark.parametrize("name", ALL_SPECS)
def test_bounds_do_not_fall(name: str) -> None:
    spec = ALL_SPECS[name]
    first, last = spec.max_crops_range
    for count in ("sequence_tokens", "connector_outputs", "vit_patches", "crops"):
        if not is_bounded(spec, count):
            continue
        bounds = [mc.worst_case(spec, max_crops=n, count=count).tokens for n in MAX_CROPS if n >= first]
        assert bounds == sorted(bounds)
        if last <= MAX_CROPS[-1]:
            assert bounds[last - first :] == [bounds[-1]] * len(bounds[last - first :])


def test_own_setting_is_the_default() -> None:
    for spec in SPECS.values():
        limit = within(spec)
        assert mc.worst_case(spec, **limit) == mc.worst_case(spec, max_crops=spec.max_crops, **limit)


# -- no image exceeds it --------------------------------------------------------------------------------------


def _sides() -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, 3000), st.integers(1, 2**31 - 1))


@st.composite
def _images(draw: st.DrawFn) -> tuple[mc.Spec, int | None, int, int]:
    spec = ALL_SPECS[draw(st.sampled_from(sorted(ALL_SPECS)))]
    max_crops = draw(st.none() | st.integers(spec.max_crops_range[0], 300))
    return spec, max_crops, draw(_sides()), draw(_sides())


@given(_images())
def test_no_image_exceeds_the_bound(image: tuple[mc.Spec, int | None, int, int]) -> None:
    spec, max_crops, height, width = image
    layout = mc.layout(spec, height=height, width=width, max_crops=max_crops)
    for count in ("sequence_tokens", "connector_outputs", "vit_patches"):
        if not is_bounded(spec, count):
            continue
        assert getattr(layout, count) <= mc.worst_case(spec, max_crops=max_crops, count=count).tokens
    assert layout.num_crops <= mc.worst_case(spec, max_crops=max_crops, count="crops").tokens


def _blocks() -> Iterator[npt.NDArray[np.int64]]:
    for seed in range(3):
        yield random_sizes(50_000, seed=seed)


@pytest.mark.parametrize("name", ALL_SPECS)
def test_none_of_many_images_exceeds_the_bound(name: str) -> None:
    spec = ALL_SPECS[name]
    for sizes in _blocks():
        for max_crops in (None, spec.max_crops_range[0], 7, 40):
            if max_crops is not None and max_crops < spec.max_crops_range[0]:
                continue
            bound = mc.worst_case(spec, max_crops=max_crops).tokens
            assert mc.count_tokens(spec, sizes, max_crops=max_crops).max() <= bound


def test_bound_of_lists_that_crops_do_not_divide() -> None:
    """The feature map then has another ratio than the canvas, and filling the canvas is not the worst."""
    rng = np.random.default_rng(11)
    ratios = np.column_stack([np.full(1000, 20_000), np.geomspace(2000, 200_000, 1000).astype(int)])
    exceeded = 0
    for _ in range(300):
        crop_size = int(rng.choice([150, 200, 224, 256, 300, 336]))
        listed = rng.integers(crop_size, 1200, (int(rng.integers(1, 6)), 2))
        spec = mc.get_spec("llava_next", crop_size=crop_size, image_grid_pinpoints=listed.tolist())
        near = np.repeat(listed, 200, axis=0)
        near = np.maximum(near + rng.integers(-60, 61, near.shape), 1)
        most = mc.count_tokens(spec, np.concatenate([ratios, near, random_sizes(3000, seed=1)])).max()
        bound = mc.worst_case(spec)
        assert most <= bound.tokens, (crop_size, listed.tolist())
        assert_witness(spec, bound, None, "sequence_tokens")
        exceeded += most > mc.count_tokens(spec, listed).max()
    assert exceeded > 30  # the sizes tell a bound over the listed sizes alone from the true one
