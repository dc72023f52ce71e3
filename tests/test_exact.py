"""Grids, crops and tokens equal those of the real transformers processors.

Every case counts 20,000 sizes, edge cases first; with ``-m oracle`` a million a family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from molmo_reference import grid as molmo_grid
from molmo_reference import molmo2_tokens
from sizes import mixed_sizes, random_sizes

import maxcrops as mc

Sizes = npt.NDArray[np.int64]
GetOracle = Callable[[str], ModuleType]

PER_CASE = 20_000
PER_FAMILY = 1_000_000  # with -m oracle, shared among a family's cases
BLOCK = 50_000


@dataclass(frozen=True)
class Case:
    """The same settings on both sides."""

    name: str
    family: str
    spec: mc.Spec
    upstream: dict[str, Any] = field(default_factory=dict)
    max_crops: int | None = None
    window: int = 0
    margin: int = 0

    def sizes(self, count: int) -> Sizes:
        return mixed_sizes(self.window or self.spec.crop_size, self.margin, count, seed=sum(map(ord, self.name)))


def _molmo2(key: str, max_crops: int | None = None, **upstream: Any) -> Case:
    if max_crops is not None:
        upstream["max_crops"] = max_crops
    name = "-".join([key, *(f"{value}" for value in upstream.values())])
    return Case(name, "molmo2", mc.get_spec(key), upstream, max_crops, window=266, margin=112)


def _internvl(size: int, max_patches: int, min_patches: int = 1) -> Case:
    spec = mc.get_spec("internvl", size=size, max_patches=max_patches, min_patches=min_patches)
    upstream = {"size": size, "max_patches": max_patches, "min_patches": min_patches}
    return Case(f"internvl-{size}-{min_patches}..{max_patches}", "internvl", spec, upstream)


_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_MANY_PINPOINTS = tuple((336 * r, 336 * c) for r in range(1, 5) for c in range(1, 5))


def _llava(key: str, pinpoints: tuple[tuple[int, int], ...] = _PINPOINTS, max_crops: int | None = None) -> Case:
    spec = mc.get_spec(key, image_grid_pinpoints=pinpoints)
    size = 224 if key == "llava_next" else 336
    kept = [(h, w) for h, w in pinpoints if max_crops is None or -(-h // size) * -(-w // size) <= max_crops]
    upstream: dict[str, Any] = {"size": size, "pinpoints": kept}
    if key != "llava_next":
        upstream |= {"strategy": "default", "additional_tokens": 1}
    name = f"{key}-{len(pinpoints)}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "llava_next", spec, upstream, max_crops)


def _idefics(family: str, key: str, longest_edge: int | None = None, max_crops: int | None = None) -> Case:
    """`longest_edge` changes the spec's; max_crops sets it to an even multiple of the tile."""
    spec = mc.get_spec(key) if longest_edge is None else mc.get_spec(key, longest_edge=longest_edge)
    edge, tile = spec.longest_edge, spec.crop_size
    if max_crops is not None:
        side = max(s for s in range(1, 100) if s * s <= max_crops and (s - 1) * tile < 4096)
        edge = side * tile // 2 * 2
    upstream = {"longest_edge": edge, "tile": tile, "image_seq_len": spec.tokens_per_crop}
    name = f"{key}-edge{edge}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, family, spec, upstream, max_crops)


CASES = [
    _molmo2("molmo2"),
    *(_molmo2("molmo2", n) for n in (1, 12, 24, 36)),
    _molmo2("molmo2-8b", use_single_crop_col_tokens=False),
    _molmo2("molmo2-8b", 13, use_single_crop_col_tokens=False),
    Case(
        "molmo2-uneven",
        "molmo2",
        mc.get_spec("molmo2", size=392, overlap_margins=(2, 5), pooling_size=(3, 2)),
        {"size": {"height": 392, "width": 392}, "overlap_margins": [2, 5], "pooling_size": [3, 2]},
        window=294,
        margin=98,
    ),
    _internvl(448, 12),
    _internvl(384, 12),
    _internvl(448, 1),
    _internvl(448, 6, 2),
    _internvl(384, 9, 4),
    _internvl(448, 40),
    _internvl(448, 4, 6),  # no grid at all: one crop
    _llava("llava_next"),
    _llava("llava-v1.6-mistral-7b"),
    _llava("llava-v1.6-mistral-7b", max_crops=2),
    _llava("llava-v1.6-mistral-7b", max_crops=3),
    _llava("llava-v1.6-mistral-7b", _MANY_PINPOINTS),
    _llava("llava-v1.6-mistral-7b", _MANY_PINPOINTS, max_crops=7),
    _llava("llava_next", _MANY_PINPOINTS, max_crops=9),
    _idefics("idefics3", "idefics3"),
    *(_idefics("idefics3", "idefics3", edge) for edge in (364, 1000, 1455, 5000)),
    *(_idefics("idefics3", "idefics3", max_crops=n) for n in (1, 5, 9, 30, 500)),
    _idefics("idefics3", "smolvlm-instruct"),
    _idefics("idefics3", "smolvlm-256m-instruct"),
    *(_idefics("smolvlm", "smolvlm2-256m-video-instruct", edge) for edge in (None, 1000, 1455, 5000)),
    *(_idefics("smolvlm", "smolvlm2-256m-video-instruct", max_crops=n) for n in (2, 4, 70)),
    _idefics("smolvlm", "smolvlm2-2.2b-instruct"),
    _idefics("smolvlm", "smolvlm"),
]
FAMILIES = sorted({case.family for case in CASES})


def differences(case: Case, sizes: Sizes, expected: Any) -> list[str]:
    """The first few sizes on which the batch functions and the processor differ."""
    knob = {"max_crops": case.max_crops}
    found = np.column_stack(
        [
            mc.grids(case.spec, sizes, **knob),
            mc.count_tokens(case.spec, sizes, count="crops", **knob),
            mc.count_tokens(case.spec, sizes, **knob),
        ]
    )
    wanted = np.column_stack([expected.grids, expected.crops, expected.tokens])
    wrong = np.flatnonzero((found != wanted).any(axis=1))
    return [
        f"{sizes[at].tolist()}: (rows, cols, crops, tokens) {found[at].tolist()}, upstream {wanted[at].tolist()}"
        f" ({len(wrong)} differ)"
        for at in wrong[:5]
    ]


def layout_differences(case: Case, sizes: Sizes, expected: Any, step: int) -> list[str]:
    wrong = []
    for at in range(0, len(sizes), step):
        height, width = sizes[at].tolist()
        layout = mc.layout(case.spec, height=height, width=width, max_crops=case.max_crops)
        found = (*layout.grid, layout.num_crops, layout.sequence_tokens)
        wanted = (*expected.grids[at].tolist(), int(expected.crops[at]), int(expected.tokens[at]))
        if found != wanted:
            wrong.append(f"{height}x{width}: {found}, upstream {wanted}")
    return wrong[:5]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counts_equal_the_processors(case: Case, oracle: GetOracle) -> None:
    upstream = oracle(case.family).Oracle(**case.upstream)
    sizes = case.sizes(PER_CASE)
    assert len(sizes) >= PER_CASE
    assert len(np.unique(sizes, axis=0)) > 0.9 * PER_CASE
    if case.family == "internvl":  # the search on all, the cut itself on a tenth
        expected = upstream.search(sizes)
        tenth = sizes[::10]
        assert differences(case, tenth, upstream(tenth)) == []
    else:
        expected = upstream(sizes)
    assert differences(case, sizes, expected) == []
    assert layout_differences(case, sizes, expected, step=31) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_another_setting_is_noticed(family: str, oracle: GetOracle) -> None:
    """A negative control: one case's settings against the answers of another's."""
    ours, _, theirs, *_ = [case for case in CASES if case.family == family]
    sizes = ours.sizes(0)[::9]
    expected = oracle(family).Oracle(**theirs.upstream)(sizes)
    assert len(differences(ours, sizes, expected)) == 5
    assert len(layout_differences(ours, sizes, expected, step=1)) == 5


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_a_million_sizes(family: str, oracle: GetOracle) -> None:
    cases = [case for case in CASES if case.family == family]
    blocks = -(-PER_FAMILY // (BLOCK * len(cases)))
    counted = 0
    for number, case in enumerate(cases):
        upstream = oracle(family).Oracle(**case.upstream)
        for block in range(blocks):
            sizes = random_sizes(BLOCK, seed=1000 * number + block)
            expected = upstream.search(sizes) if family == "internvl" else upstream(sizes)
            assert differences(case, sizes, expected) == [], case.name
            counted += len(sizes)
    assert counted >= PER_FAMILY


# -- whole preprocessing, pixel values included --------------------------------------------------------------

_SOME_SIZES = [(1, 1), (1, 300), (111, 800), (112, 800), (113, 37), (336, 336), (640, 480), (267, 1999)]


@pytest.mark.parametrize("size", _SOME_SIZES)
def test_molmo2_pixel_values(size: tuple[int, int], oracle: GetOracle) -> None:
    for case in CASES:
        if case.family == "molmo2" and (case.max_crops or 8) <= 13:
            crops, pooled, patches, tokens = oracle("molmo2").Oracle(**case.upstream).preprocess(*size)
            layout = mc.layout(case.spec, height=size[0], width=size[1], max_crops=case.max_crops)
            assert (layout.num_crops, layout.connector_outputs, layout.sequence_tokens) == (crops, pooled, tokens)
            assert layout.vit_patches == patches


@pytest.mark.parametrize("size", _SOME_SIZES)
def test_internvl_pixel_values(size: tuple[int, int], oracle: GetOracle) -> None:
    case = _internvl(384, 6)
    layout = mc.layout(case.spec, height=size[0], width=size[1])
    upstream = oracle("internvl").Oracle(**case.upstream).preprocess(*size)
    assert (layout.num_crops, layout.sequence_tokens) == upstream


@pytest.mark.parametrize("key", ["llava_next", "llava-v1.6-mistral-7b"])
@pytest.mark.parametrize("size", _SOME_SIZES)
def test_llava_pixel_values(size: tuple[int, int], key: str, oracle: GetOracle) -> None:
    case = _llava(key)
    layout = mc.layout(case.spec, height=size[0], width=size[1])
    upstream = oracle("llava_next").Oracle(**case.upstream).preprocess(*size)
    assert (layout.num_crops, layout.sequence_tokens) == upstream


@pytest.mark.parametrize(
    "case",
    [_idefics("idefics3", "idefics3", 1000), _idefics("smolvlm", "smolvlm2-256m-video-instruct", 1455)],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("size", _SOME_SIZES)
def test_idefics_pixel_values(size: tuple[int, int], case: Case, oracle: GetOracle) -> None:
    layout = mc.layout(case.spec, height=size[0], width=size[1])
    upstream = oracle(case.family).Oracle(**case.upstream).preprocess(*size)
    assert (layout.grid, layout.num_crops, layout.sequence_tokens) == upstream


# -- what is particular to one family ------------------------------------------------------------------------


@pytest.mark.parametrize("max_crops", [1, 8, 12, 24, 36])
def test_molmo2_training_clamps_the_reduced_side(max_crops: int) -> None:
    spec = mc.get_spec("molmo2-8b", variant="training")
    sizes = mixed_sizes(266, 112, PER_CASE, seed=5)
    grids = np.array([molmo_grid(h, w, 378, max_crops, clamp=True) for h, w in sizes.tolist()])
    tokens = np.array([len(molmo2_tokens(r, c, False)) for r, c in grids.tolist()])
    wrong = (mc.grids(spec, sizes, max_crops=max_crops) != grids).any(axis=1)
    wrong |= mc.count_tokens(spec, sizes, max_crops=max_crops) != tokens
    assert sizes[wrong][:5].tolist() == []


def test_molmo2_training_and_transformers_disagree_on_thin_images(oracle: GetOracle) -> None:
    transformers, training = (mc.get_spec("molmo2", variant=variant) for variant in ("transformers", "training"))
    upstream = oracle("molmo2").Oracle()(np.array([[100, 2000]]))
    assert (upstream.crops.tolist(), upstream.tokens.tolist()) == ([2], [424])
    assert molmo_grid(100, 2000, 378, 8, clamp=True) == (1, 8)
    assert len(molmo2_tokens(1, 8, True)) == 1348
    for spec, crops, tokens in ((transformers, 2, 424), (training, 9, 1348)):
        layout = mc.layout(spec, height=100, width=2000)
        assert (layout.num_crops, layout.sequence_tokens) == (crops, tokens)
        assert mc.count_tokens(spec, [(100, 2000)]).tolist() == [tokens]
    sizes = random_sizes(5000, seed=6)
    differ = (mc.grids(transformers, sizes) != mc.grids(training, sizes)).any(axis=1)
    assert differ.any()
    assert sizes[differ].min(axis=1).max() < 112


@pytest.mark.parametrize("key", ["idefics3", "smolvlm-instruct", "smolvlm2-256m-video-instruct"])
def test_idefics_crops_stay_within_max_crops(key: str) -> None:
    spec = mc.get_spec(key)
    sizes = mixed_sizes(spec.crop_size, 0, PER_CASE, seed=7)
    for max_crops in [*range(1, 40), 63, 64, 65, 120, 121, 143, 144, 1000]:
        crops = mc.count_tokens(spec, sizes, max_crops=max_crops, count="crops")
        assert crops.max() <= max_crops + 1, sizes[crops.argmax()].tolist()
        grids = mc.grids(spec, sizes, max_crops=max_crops)
        unsplit = (grids == 0).any(axis=1)
        assert (grids[unsplit] == 0).all()
        assert (crops == grids.prod(axis=1) + 1).all()
