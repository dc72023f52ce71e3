"""Grids, crops and tokens equal those of the real processors; outside transformers, those of references of our own.

The first case of every family counts 20,000 sizes, edge cases first, and its other settings share as many; with
``-m oracle`` a million a family.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import Case, all_cases
from molmo_reference import grid as molmo_grid
from molmo_reference import molmo2_tokens
from sizes import mixed_sizes, random_sizes

import maxcrops as mc

Sizes = npt.NDArray[np.int64]
GetOracle = Callable[[str], ModuleType]

PER_FAMILY_AT_ONCE = 20_000
PER_FAMILY = 1_000_000  # with -m oracle, shared among a family's cases
BLOCK = 50_000


CASES = all_cases()
ORACLES = sorted({case.oracle for case in CASES})


def sizes_of(case: Case) -> Sizes:
    """All for the first case of an oracle; the others take turns."""
    sizes = case.sizes(PER_FAMILY_AT_ONCE)
    cases = [other for other in CASES if other.oracle == case.oracle]
    at = cases.index(case)
    return sizes if at == 0 else sizes[at - 1 :: len(cases) - 1]


def not_refused(upstream: Any, sizes: Sizes) -> npt.NDArray[np.bool_]:
    """Sizes that the processor does not raise for."""
    if not hasattr(upstream, "refused"):
        return np.ones(len(sizes), dtype=np.bool_)
    refused: npt.NDArray[np.bool_] = upstream.refused(sizes)
    return ~refused


def differences(case: Case, sizes: Sizes, expected: Any, counted: npt.NDArray[np.bool_] | None = None) -> list[str]:
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
    differ = (found != wanted).any(axis=1)
    wrong = np.flatnonzero(differ if counted is None else differ & counted)
    return [
        f"{sizes[at].tolist()}: (rows, cols, crops, tokens) {found[at].tolist()}, upstream {wanted[at].tolist()}"
        f" ({len(wrong)} differ)"
        for at in wrong[:5]
    ]


def layout_differences(case: Case, sizes: Sizes, expected: Any, counted: npt.NDArray[np.bool_], step: int) -> list[str]:
    wrong = []
    for at in range(0, len(sizes), step):
        height, width = sizes[at].tolist()
        layout = mc.layout(case.spec, height=height, width=width, max_crops=case.max_crops)
        if layout.is_refused == counted[at]:
            wrong.append(f"{height}x{width}: refused {layout.is_refused}, upstream {not counted[at]}")
        found = (*layout.grid, layout.num_crops, layout.sequence_tokens)
        wanted = (*expected.grids[at].tolist(), int(expected.crops[at]), int(expected.tokens[at]))
        if found != wanted and counted[at]:
            wrong.append(f"{height}x{width}: {found}, upstream {wanted}")
    return wrong[:5]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counts_equal_the_processors(case: Case, oracle: GetOracle) -> None:
    upstream = oracle(case.oracle).Oracle(**case.upstream)
    sizes = sizes_of(case)
    assert len(np.unique(sizes, axis=0)) > 0.9 * len(sizes)
    counted = not_refused(upstream, sizes)
    assert counted.mean() > 0.8
    expected = upstream(sizes)
    assert differences(case, sizes, expected, counted) == []
    assert layout_differences(case, sizes, expected, counted, step=31) == []
    if hasattr(upstream, "keys"):
        keys = mc.count_tokens(case.spec, sizes, max_crops=case.max_crops, count="cross_attention_keys")
        assert (keys == upstream.keys(sizes)).all()


_THIN_SIZES = [
    (short, long) for short in (1, 2, 9, 31, 32, 40) for long in (300, 2047, 2048, 2049, 9000, 20_000, 97_000)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_processors_refuse_what_is_refused(case: Case, oracle: GetOracle) -> None:
    upstream = oracle(case.oracle).Oracle(**case.upstream)
    if not hasattr(upstream, "refused"):
        pytest.skip("takes every size")
    sizes = [*_THIN_SIZES, *((width, height) for height, width in _THIN_SIZES)]
    found = [mc.layout(case.spec, height=h, width=w, max_crops=case.max_crops).is_refused for h, w in sizes]
    assert found == upstream.refused(np.array(sizes)).tolist()


@pytest.mark.parametrize("family", ORACLES)
def test_another_setting_is_noticed(family: str, oracle: GetOracle) -> None:
    """A negative control: one case's settings against the answers of another's."""
    ours, _, theirs, *_ = [case for case in CASES if case.oracle == family]
    sizes = ours.sizes(0)[::9]
    upstream = oracle(family).Oracle(**theirs.upstream)
    expected, counted = upstream(sizes), not_refused(upstream, sizes)
    assert len(differences(ours, sizes, expected, counted)) == 5
    assert len(layout_differences(ours, sizes, expected, counted, step=1)) == 5


@pytest.mark.oracle
@pytest.mark.parametrize("family", ORACLES)
def test_a_million_sizes(family: str, oracle: GetOracle) -> None:
    cases = [case for case in CASES if case.oracle == family]
    blocks = -(-PER_FAMILY // (BLOCK * len(cases)))
    counted = 0
    for number, case in enumerate(cases):
        upstream = oracle(case.oracle).Oracle(**case.upstream)
        for block in range(blocks):
            sizes = random_sizes(BLOCK, seed=1000 * number + block)
            expected = upstream(sizes)
            assert differences(case, sizes, expected, not_refused(upstream, sizes)) == [], case.name
            counted += len(sizes)
    assert counted >= PER_FAMILY


# -- whole preprocessing, pixel values included --------------------------------------------------------------

_SOME_SIZES = [(1, 1), (1, 300), (111, 800), (112, 800), (113, 37), (336, 336), (640, 480), (267, 1999)]


@pytest.mark.parametrize("family", ORACLES)
def test_pixel_values(family: str, oracle: GetOracle) -> None:
    """Of the real image processor, on the first two settings."""
    for case in [case for case in CASES if case.oracle == family][:2]:
        upstream = oracle(family).Oracle(**case.upstream)
        if not hasattr(upstream, "preprocess"):
            pytest.skip("outside transformers")
        counted = not_refused(upstream, np.array(_SOME_SIZES))
        for (height, width), is_counted in zip(_SOME_SIZES, counted, strict=True):
            if is_counted:
                layout = mc.layout(case.spec, height=height, width=width, max_crops=case.max_crops)
                crops, *_, tokens = upstream.preprocess(height, width)
                assert (layout.num_crops, layout.sequence_tokens) == (crops, tokens), (case.name, height, width)


@pytest.mark.parametrize("size", _SOME_SIZES)
def test_molmo2_features_and_patches(size: tuple[int, int], oracle: GetOracle) -> None:
    for case in CASES:
        if case.oracle == "molmo2" and (case.max_crops or 8) <= 13:
            crops, pooled, patches, tokens = oracle("molmo2").Oracle(**case.upstream).preprocess(*size)
            layout = mc.layout(case.spec, height=size[0], width=size[1], max_crops=case.max_crops)
            assert (layout.num_crops, layout.connector_outputs, layout.sequence_tokens) == (crops, pooled, tokens)
            assert layout.vit_patches == patches


# -- what is particular to one family ------------------------------------------------------------------------


@pytest.mark.parametrize("max_crops", [1, 8, 12, 24, 36])
def test_molmo2_training_clamps_the_reduced_side(max_crops: int) -> None:
    spec = mc.get_spec("molmo2-8b", variant="training")
    sizes = mixed_sizes(266, 112, PER_FAMILY_AT_ONCE, seed=5)
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
    sizes = mixed_sizes(spec.crop_size, 0, PER_FAMILY_AT_ONCE, seed=7)
    for max_crops in [*range(1, 40), 63, 64, 65, 120, 121, 143, 144, 1000]:
        crops = mc.count_tokens(spec, sizes, max_crops=max_crops, count="crops")
        assert crops.max() <= max_crops + 1, sizes[crops.argmax()].tolist()
        grids = mc.grids(spec, sizes, max_crops=max_crops)
        unsplit = (grids == 0).any(axis=1)
        assert (grids[unsplit] == 0).all()
        assert (crops == grids.prod(axis=1) + 1).all()


@pytest.mark.parametrize("size", [(500, 500), (500, 900), (3000, 3000)])
def test_mllama_encodes_blank_crops_too(size: tuple[int, int]) -> None:
    layout = mc.layout(mc.get_spec("llama-3.2-11b-vision-instruct"), height=size[0], width=size[1])
    assert (layout.vit_patches, layout.connector_outputs) == (4 * 1600, 4 * 1601)
    assert (layout.sequence_tokens, layout.cross_attention_keys) == (1, 1601 * layout.num_crops)


# -- where the image lies on its canvas --------------------------------------------------------------------------


def test_mllama_content(oracle: GetOracle) -> None:
    oracle("mllama")
    from transformers.models.mllama.image_processing_mllama import get_image_size_fit_to_canvas

    spec = mc.get_spec("llama-3.2-11b-vision-instruct")
    for height, width in random_sizes(3000, seed=11).tolist():
        layout = mc.layout(spec, height=height, width=width)
        size = get_image_size_fit_to_canvas(height, width, *layout.canvas, spec.crop_size)
        assert layout.content == (0, 0, *map(int, size)), (height, width)


def test_deepseek_ocr2_global_content(oracle: GetOracle) -> None:
    processor = oracle("deepseek_ocr2").Oracle().image_processor
    spec = mc.get_spec("deepseek_ocr2")
    for height, width in random_sizes(3000, seed=12).tolist():
        # As _preprocess has it, which pads what it resized on both sides, the larger half behind.
        scale = processor.size.height / max(height, width)
        resized = (round(height * scale), round(width * scale))
        view = next(view for view in mc.layout(spec, height=height, width=width).views if view.is_global)
        if min(resized) > 0:
            before = tuple((1024 - side) // 2 for side in resized)
            assert view.content == (*before, *resized), (height, width)
