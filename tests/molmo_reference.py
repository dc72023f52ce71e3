"""Molmo's cut and tokens the slow way: every tiling is tried, every token is written down.

Nothing of it comes from maxcrops; patches, margins and pooling are numbers here.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

PATCH = 14
MARGIN = 4  # patches, on either side
POOL = 2


@cache
def _tilings(max_crops: int) -> npt.NDArray[np.int32]:
    tilings = [
        (rows, cols) for rows in range(1, max_crops + 1) for cols in range(1, max_crops + 1) if rows * cols <= max_crops
    ]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    return np.array(tilings, dtype=np.int32)


def select_tiling(height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
    """The least upscaling, else the least downscaling; of equals, the first of the list. In float32."""
    tilings = _tilings(max_crops)
    original = np.array([height, width], dtype=np.float32)
    with np.errstate(divide="ignore"):
        scales = (tilings * window).astype(np.float32) / original
    required = scales.min(axis=-1)
    if np.all(required < 1):
        best = int(np.argmax(required))
    else:
        best = int(np.argmin(np.where(required < 1.0, np.float32(10e9), required)))
    return int(tilings[best, 0]), int(tilings[best, 1])


def grid(height: int, width: int, crop: int, max_crops: int, *, clamp: bool = False) -> tuple[int, int]:
    """(rows, cols); `clamp` as in Molmo2's training repository."""
    margins = 2 * MARGIN * PATCH
    height, width = height - margins, width - margins
    if clamp:
        height, width = max(height, 1), max(width, 1)
    return select_tiling(height, width, crop - margins, max_crops)


def _kept(count: int, patches: int) -> list[int]:
    """Patches that each of `count` crops in a row keeps: inner margins are the neighbours'."""
    inner = patches - 2 * MARGIN
    return [inner + MARGIN * (at == 0) + MARGIN * (at == count - 1) for at in range(count)]


@cache
def tokens(rows: int, cols: int) -> tuple[str, ...]:
    """Molmo: each crop's 24 x 24 patches are pooled, then shared ones are dropped."""
    low_res = ["low_start"]
    for _ in range(24 // POOL):
        low_res += ["patch"] * (24 // POOL) + ["col"]
    low_res.append("end")
    local = ["start"]
    for crop_height in _kept(rows, 24):
        for _ in range(crop_height // POOL):
            for crop_width in _kept(cols, 24):
                local += ["patch"] * (crop_width // POOL)
            local.append("col")
    local.append("end")
    return tuple(low_res + local)


@cache
def molmo2_tokens(rows: int, cols: int, low_res_cols: bool) -> tuple[str, ...]:
    """Molmo2: the stitched map of 27 x 27 patches a crop is pooled; odd sides are padded."""
    low_res = ["low_start"]
    for _ in range(0, 27, POOL):
        low_res += ["patch" for _ in range(0, 27, POOL)] + ["col"] * low_res_cols
    low_res.append("end")
    local = ["start"]
    for _ in range(0, sum(_kept(rows, 27)), POOL):
        local += ["patch" for _ in range(0, sum(_kept(cols, 27)), POOL)] + ["col"]
    local.append("end")
    return tuple(low_res + local)


def letterbox(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the image on the canvas: sides truncated in float32, centred."""
    scale = min(np.float32(canvas[0]) / np.float32(height), np.float32(canvas[1]) / np.float32(width))
    scaled = int(np.float32(height) * scale), int(np.float32(width) * scale)
    return (canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2, *scaled
