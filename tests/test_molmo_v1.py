"""Molmo counts as a naive reading of its repository does."""

from __future__ import annotations

import numpy as np
import pytest
from molmo_reference import grid, letterbox, tokens
from sizes import mixed_sizes, random_sizes

import maxcrops as mc

MOLMO = mc.get_spec("molmo-7b-d")
SIZES = mixed_sizes(224, 112, 20_000, seed=1)


@pytest.mark.parametrize("max_crops", [1, 6, 12, 36, 100])
def test_counts_equal_the_naive_ones(max_crops: int) -> None:
    expected = [grid(h, w, 336, max_crops) for h, w in SIZES.tolist()]
    grids = np.array(expected)
    crops = grids.prod(axis=1) + 1
    sequence = np.array([len(tokens(*cut)) for cut in expected])
    counts = {"sequence_tokens": sequence, "crops": crops}
    counts |= {"connector_outputs": 144 * crops, "vit_patches": 576 * crops}
    wrong = (mc.grids(MOLMO, SIZES, max_crops=max_crops) != grids).any(axis=1)
    for count, values in counts.items():
        wrong |= mc.count_tokens(MOLMO, SIZES, max_crops=max_crops, count=count) != values
    assert SIZES[wrong][:5].tolist() == []
    for at in range(0, len(SIZES), 41):
        height, width = SIZES[at].tolist()
        layout = mc.layout(MOLMO, height=height, width=width, max_crops=max_crops)
        assert layout.grid == expected[at]
        assert layout.sequence_tokens == sequence[at]
        assert (layout.num_crops, layout.connector_outputs, layout.vit_patches) == (
            crops[at],
            144 * crops[at],
            576 * crops[at],
        )


@pytest.mark.parametrize("max_crops", [1, 12, 100])
def test_letterbox_is_truncated_in_float32(max_crops: int) -> None:
    for height, width in random_sizes(4000, seed=2).tolist():
        layout = mc.layout(MOLMO, height=height, width=width, max_crops=max_crops)
        rows, cols = layout.grid
        assert layout.canvas == (224 * rows + 112, 224 * cols + 112)
        assert layout.content == letterbox(height, width, layout.canvas), (height, width)


@pytest.mark.parametrize(
    ("max_crops", "size", "expected"),
    [(12, (2800, 336), (12, 1, 1460)), (36, (8176, 336), (36, 1, 3956)), (12, (1080, 1920), (3, 4, 1196))],
)
def test_worked_examples(max_crops: int, size: tuple[int, int], expected: tuple[int, int, int]) -> None:
    layout = mc.layout(MOLMO, height=size[0], width=size[1], max_crops=max_crops)
    assert (*layout.grid, layout.sequence_tokens) == expected
    assert layout.sequence_tokens == len(tokens(*layout.grid))


def test_three_costs_of_a_screen() -> None:
    layout = mc.layout(MOLMO, height=1080, width=1920)
    assert layout.num_crops == 13
    assert layout.connector_outputs == 1872
    assert layout.vit_patches == 7488


@pytest.mark.parametrize(("size", "expected"), [((112, 2000), (1, 8)), ((111, 2000), (1, 1)), ((112, 112), (1, 1))])
def test_side_of_the_margins_width(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert grid(*size, 336, 8) == expected
    assert mc.layout(MOLMO, height=size[0], width=size[1], max_crops=8).grid == expected
    assert mc.layout(MOLMO, height=size[1], width=size[0], max_crops=8).grid == expected[::-1]


def test_resize_mode_has_one_crop() -> None:
    spec = mc.get_spec("molmo", crop_mode="resize")
    sizes = random_sizes(1000, seed=3)
    low_res = tokens(1, 1).index("end") + 1
    assert low_res == 158
    assert set(mc.count_tokens(spec, sizes).tolist()) == {158}
    assert set(mc.count_tokens(spec, sizes, count="crops").tolist()) == {1}
    assert set(mc.count_tokens(spec, sizes, count="connector_outputs").tolist()) == {144}
    layout = mc.layout(spec, height=1080, width=1920)
    assert (layout.grid, layout.num_crops, layout.sequence_tokens) == ((0, 0), 1, 158)


@pytest.mark.parametrize(("text", "expected"), [(0, 37), (512, 32), (1024, 27)])
def test_largest_max_crops_within_4096(text: int, expected: int) -> None:
    assert mc.largest_max_crops(MOLMO, max_tokens=4096 - text) == expected
    tallest = [len(tokens(rows, 1)) for rows in (expected, expected + 1)]
    assert tallest[0] <= 4096 - text < tallest[1]
