"""The slow, readable way to every number that the fast backends make: their oracle.

NumPy alone. Float arithmetic is that of torch's CPU kernels (aten/src/ATen/native/cpu/UpSampleKernel.cpp), in float32
unless a line says otherwise; ``fma`` is written where their compiler fuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maxcrops import _core
from maxcrops.specs import Spec
from maxcrops.specs._rules import PixelRule

_SMALL = 128
"""torch resizes to a height and width of this or less together, in pixels, by its kernel for one thread."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


def crops_of(rule: PixelRule, layout: _core.Layout, image: npt.NDArray[np.uint8]) -> Floats:
    """float32 [crops, patches, 3 * patch_size^2] of one uint8 [height, width, 3] image."""
    side, patch = layout.views[0].crops[0][2], layout.patch_size
    crops = []
    for view in layout.views:
        canvas = _canvas(rule, view, image)
        crops += [canvas[top : top + side, left : left + side] for top, left, _, _ in view.crops]
    count = side // patch
    stacked = np.stack(crops).reshape(len(crops), count, patch, count, patch, 3)
    patches: Floats = stacked.transpose(0, 1, 3, 2, 4, 5).reshape(len(crops), count**2, patch**2 * 3)
    return patches


def _canvas(rule: PixelRule, view: _core.View, image: npt.NDArray[np.uint8]) -> Floats:
    top, left, height, width = view.content
    mean, std = np.array(rule.image_mean, np.float32), np.array(rule.image_std, np.float32)
    if rule.resize == "bilinear_antialias":
        values = resize_antialias(image.astype(np.float32) / np.float32(255), height, width).clip(0, 1)
    else:
        chained = rule.resize == "bilinear_rounded_one_thread" or height + width <= _SMALL
        values = np.rint(resize_bilinear(image.astype(np.float32), height, width, chained=chained)).clip(0, 255)
        mean, std = mean * np.float32(255), std * np.float32(255)
    canvas = np.zeros((*view.canvas, 3), np.float32)
    canvas[top : top + height, left : left + width] = values
    normalized: Floats = (canvas - mean) / std
    return normalized


# -- resizing ------------------------------------------------------------------------------------------------------


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """a * b + c of float32 values, rounded once.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond, 2008): float32 then rounds it
    as it would round the exact sum.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    inexact_even = (error != 0) & (total.view(np.int64) & 1 == 0)
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(inexact_even, odd, total).astype(np.float32)


def _two_taps(size: int, out: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats]:
    """(first, second) neighbour of each output pixel and their weights."""
    if size == out:
        same = np.arange(out)
        return same, same, np.ones(out, np.float32), np.zeros(out, np.float32)
    scale = np.float32(size) / np.float32(out)
    source = np.maximum(fma(scale, np.arange(out, dtype=np.float32) + np.float32(0.5), np.float32(-0.5)), 0)
    first = np.minimum(source.astype(np.int64), size - 1)
    weight = np.clip(source - first.astype(np.float32), 0, 1).astype(np.float32)
    return first, np.minimum(first + 1, size - 1), np.float32(1) - weight, weight


def resize_bilinear(image: Floats, height: int, width: int, *, chained: bool = False) -> Floats:
    """Without antialias, [height, width, 3]; `chained` as torch does it on one thread."""
    above, below, v0, v1 = _two_taps(image.shape[0], height)
    left, right, u0, u1 = _two_taps(image.shape[1], width)
    a, b = image[above][:, left], image[above][:, right]
    c, d = image[below][:, left], image[below][:, right]
    u0, u1, v0, v1 = u0[:, None], u1[:, None], v0[:, None, None], v1[:, None, None]
    if chained:
        return fma(v1 * u1, d, fma(v1 * u0, c, fma(v0 * u0, a, v0 * u1 * b)))
    return fma(fma(a, u0, b * u1), v0, fma(c, u0, d * u1) * v1)


def _windows(size: int, out: int) -> list[tuple[int, Floats]]:
    """(first source pixel, weights) of each output pixel. Products, and sums with 0.5, are float64 there."""
    scale = np.float32(size) / np.float32(out)
    support = max(scale, np.float32(1))
    inverse = float(np.float32(1 / float(scale))) if scale >= 1 else 1.0
    longest = int(np.ceil(support)) * 2 + 1
    windows = []
    for i in range(out):
        center = np.float32(float(scale) * (i + 0.5))
        first = max(int(float(center - support) + 0.5), 0)
        count = min(min(int(float(center + support) + 0.5), size) - first, longest)
        distance = (np.arange(first, first + count, dtype=np.float32) - center).astype(np.float64) + 0.5
        weights = np.maximum(np.float32(1) - np.abs((distance * inverse).astype(np.float32)), 0)
        total = np.float32(0)
        for weight in weights:
            total += weight
        windows.append((first, weights / total))
    return windows


def _weighted_sums(image: Floats, out: int) -> Floats:
    """Along the first axis. The first product, products added in groups of four, and the rest fused: the order that
    the compiler of torch 2.13's x86 wheels chose."""
    if len(image) == out:
        return image
    rows = []
    for first, weights in _windows(len(image), out):
        total = image[first] * weights[0]
        unfused = 1 + (len(weights) - 1) // 4 * 4
        for j in range(1, len(weights)):
            value = image[first + j]
            total = total + value * weights[j] if j < unfused else fma(value, weights[j], total)
        rows.append(total)
    return np.stack(rows)


def resize_antialias(image: Floats, height: int, width: int) -> Floats:
    """With antialias, [height, width, 3]: along the rows first, then along the columns."""
    return _weighted_sums(_weighted_sums(image.transpose(1, 0, 2), width).transpose(1, 0, 2), height)


# -- index tensors -------------------------------------------------------------------------------------------------


def index_arrays(
    spec: Spec, rule: PixelRule, layouts: Sequence[_core.Layout], token_ids: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """What stands behind the crops in the batch, image by image."""
    if rule.pack == "token_pooling":
        before = np.cumsum([0] + [layout.vit_patches for layout in layouts])
        pooling = [token_pooling(spec, layout) for layout in layouts]
        grids = [_core.feature_grids(spec._core, layout) for layout in layouts]
        return {
            "image_token_pooling": _joined(np.where(p < 0, p, p + b) for p, b in zip(pooling, before, strict=False)),
            "image_grids": np.array(grids, np.int64).reshape(-1, 4),
            "image_num_crops": np.array([layout.num_crops for layout in layouts], np.int64),
        }
    before = np.cumsum([0] + [layout.sequence_tokens for layout in layouts])
    positions = [feature_positions(spec, layout) for layout in layouts]
    return {
        "image_input_idx": _joined(np.where(p < 0, p, p + b) for p, b in zip(positions, before, strict=False)),
        "image_masks": np.concatenate([patch_masks(layout) for layout in layouts]),
        "image_tokens": np.array(token_ids, np.int32)[_joined(image_tokens(spec, layout) for layout in layouts)],
    }


def _joined(arrays: Iterable[Ints]) -> Ints:
    return np.concatenate(list(arrays)).astype(np.int32)


def token_pooling(spec: Spec, layout: _core.Layout) -> Ints:
    """int32 [features, pooling rows * cols]: patches that each feature pools, -1 for none."""
    side = spec.crop_size // spec.patch_size
    patches = np.arange(layout.num_crops * side**2, dtype=np.int32)
    local = patches[side**2 :].reshape(*layout.grid, side, side)
    return np.concatenate(
        [_pooled(spec, patches[: side**2].reshape(side, side)), _pooled(spec, _stitched(spec, local))]
    )


def _stitched(spec: Spec, crops: Ints) -> Ints:
    """[rows, cols, side, side] of crops as one map, without what neighbours share."""
    before, behind = spec.overlap_margins
    rows, cols, side, _ = crops.shape

    def own(index: int, count: int) -> slice:
        return slice(before if index > 0 else 0, side - (behind if index < count - 1 else 0))

    return np.concatenate(
        [np.concatenate([crops[r, c, own(r, rows), own(c, cols)] for c in range(cols)], axis=1) for r in range(rows)]
    )


def _pooled(spec: Spec, patches: Ints) -> Ints:
    """Windows of a map, padded with -1 on both sides, the larger part behind."""
    pads = [-length % pool for length, pool in zip(patches.shape, spec.pooling, strict=True)]
    padded = np.pad(patches, [(pad // 2, pad - pad // 2) for pad in pads], constant_values=-1)
    rows, cols = (length // pool for length, pool in zip(padded.shape, spec.pooling, strict=True))
    windows: Ints = padded.reshape(rows, spec.pooling[0], cols, spec.pooling[1]).transpose(0, 2, 1, 3)
    return windows.reshape(rows * cols, -1)


PATCH, COL, START, END = range(4)


def image_tokens(spec: Spec, layout: _core.Layout) -> Ints:
    """int32 [tokens] of kinds: 0 a feature, 1 a column's end, 2 a start, 3 an end."""
    low_rows, low_cols, rows, cols = _core.feature_grids(spec._core, layout)
    tokens = [START, *([PATCH] * low_cols + [COL] * spec.low_res_col_tokens) * low_rows, END]
    if rows:
        tokens += [START, *([PATCH] * cols + [COL] * spec.col_tokens) * rows, END]
    return np.array(tokens, np.int32)


def feature_positions(spec: Spec, layout: _core.Layout) -> Ints:
    """int32 [crops, features a crop]: where each crop's pooled features stand among the tokens; -100 for those that a
    neighbour has. A map of features is cut in crops again, and each crop looks its own up in it."""
    positions = np.flatnonzero(image_tokens(spec, layout) == PATCH).astype(np.int32)
    side = spec.crop_size // spec.patch_size
    high, wide = (-(-side // pool) for pool in spec.pooling)
    rows, cols = layout.grid
    result = np.full((layout.num_crops, high, wide), -100, np.int32)
    result[0] = positions[: high * wide].reshape(high, wide)
    if not rows * cols:
        return result.reshape(layout.num_crops, -1)

    def own(count: int, pool: int, length: int) -> list[tuple[slice, slice]]:
        """(in the crop, in the map) of the features that each of `count` crops keeps."""
        before, behind = spec.overlap_margins
        slices, at = [], 0
        for i in range(count):
            kept = length - (before if i > 0 else 0) - (behind if i < count - 1 else 0)
            start, size = (before // pool if i > 0 else 0), -(-kept // pool)
            slices.append((slice(start, start + size), slice(at, at + size)))
            at += size
        return slices

    row_slices, col_slices = own(rows, spec.pooling[0], side), own(cols, spec.pooling[1], side)
    stitched = positions[high * wide :].reshape(row_slices[-1][1].stop, col_slices[-1][1].stop)
    for r, (in_row, of_row) in enumerate(row_slices):
        for c, (in_col, of_col) in enumerate(col_slices):
            result[1 + r * cols + c, in_row, in_col] = stitched[of_row, of_col]
    return result.reshape(layout.num_crops, -1)


def patch_masks(layout: _core.Layout) -> Floats:
    """float32 [crops, patches]: the share of each patch that is image; the global crop's row is -1 and stands last."""
    patch = layout.patch_size
    rows = []
    for view in layout.views:
        if view.is_global and layout.num_crops > 1:
            continue
        top, left, height, width = view.content
        mask = np.zeros(view.canvas, np.float32)
        mask[top : top + height, left : left + width] = 1
        for y, x, side, _ in view.crops:
            count = side // patch
            patches = mask[y : y + side, x : x + side].reshape(count, patch, count, patch)
            rows.append(patches.transpose(0, 2, 1, 3).reshape(count**2, -1).mean(axis=-1))
    if layout.num_crops > 1:
        rows.append(np.full_like(rows[0], -1))
    return np.stack(rows)
