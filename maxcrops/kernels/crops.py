"""From uint8 images to the patches of their crops, for a ragged batch in one or two launches.

All geometry comes from a block of words that the core made (csrc/core/pixels/device_plan.h): which view a crop is cut
from, where the view's content lies, which source pixels and weights an output pixel has. The order of operations is the
CPU's (csrc/core/pixels/pixel_kernels.h, maxcrops/preprocess/_reference.py); a fused multiply-add is written tl.fma, and
every other operation rounds.

Launches have one dimension: CUDA's second and third end at 65535.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from maxcrops import _core

_View, _Crop = _core.ViewWord, _core.CropWord

VIEW_WORDS: tl.constexpr = tl.constexpr(int(_View.END))
CROP_WORDS: tl.constexpr = tl.constexpr(int(_Crop.END))
ADDRESS: tl.constexpr = tl.constexpr(int(_View.ADDRESS))
ROW_STRIDE: tl.constexpr = tl.constexpr(int(_View.ROW_STRIDE))
COL_STRIDE: tl.constexpr = tl.constexpr(int(_View.COL_STRIDE))
CHANNEL_STRIDE: tl.constexpr = tl.constexpr(int(_View.CHANNEL_STRIDE))
HEIGHT: tl.constexpr = tl.constexpr(int(_View.HEIGHT))
WIDTH: tl.constexpr = tl.constexpr(int(_View.WIDTH))
TOP: tl.constexpr = tl.constexpr(int(_View.TOP))
LEFT: tl.constexpr = tl.constexpr(int(_View.LEFT))
CONTENT_HEIGHT: tl.constexpr = tl.constexpr(int(_View.CONTENT_HEIGHT))
CONTENT_WIDTH: tl.constexpr = tl.constexpr(int(_View.CONTENT_WIDTH))
ROWS: tl.constexpr = tl.constexpr(int(_View.ROWS))
COLS: tl.constexpr = tl.constexpr(int(_View.COLS))
ROW_TAPS: tl.constexpr = tl.constexpr(int(_View.ROW_TAPS))
COL_TAPS: tl.constexpr = tl.constexpr(int(_View.COL_TAPS))
ROW_WEIGHTS: tl.constexpr = tl.constexpr(int(_View.ROW_WEIGHTS))
COL_WEIGHTS: tl.constexpr = tl.constexpr(int(_View.COL_WEIGHTS))
CHAINED: tl.constexpr = tl.constexpr(int(_View.CHAINED))
WORKSPACE: tl.constexpr = tl.constexpr(int(_View.WORKSPACE))
FIRST_TILE: tl.constexpr = tl.constexpr(int(_View.FIRST_TILE))
CROP_VIEW: tl.constexpr = tl.constexpr(int(_Crop.VIEW))
CROP_TOP: tl.constexpr = tl.constexpr(int(_Crop.TOP))
CROP_LEFT: tl.constexpr = tl.constexpr(int(_Crop.LEFT))
CROP_OUTPUT: tl.constexpr = tl.constexpr(int(_Crop.OUTPUT))

TO_INTEGER: tl.constexpr = tl.constexpr(12582912.0)  # 1.5 * 2^23: a float32 of |x| < 2^22 plus this has no fraction

BLOCK = 512
"""Output values a program of either pass makes."""

OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
"""Of every launch. Without fusion, a product and a sum are two roundings; tl.fma stays one."""


@triton.jit
def _by_channel(constants, first: tl.constexpr, channel):
    """Each lane's of three floats."""
    red = tl.load(constants + first)
    green = tl.load(constants + first + 1)
    blue = tl.load(constants + first + 2)
    return tl.where(channel == 0, red, tl.where(channel == 1, green, blue))


@triton.jit
def _low(word):
    return word.to(tl.int32)


@triton.jit
def _high(word):
    return (word >> 32).to(tl.int32)


@triton.jit
def _canvas_place(value, PATCH: tl.constexpr, SIDE: tl.constexpr):
    """(row, col, channel) within its crop of each value of a crop, patch by patch."""
    patch_values: tl.constexpr = 3 * PATCH * PATCH
    row_values: tl.constexpr = 3 * PATCH
    patch = value // patch_values
    in_patch = value % patch_values
    in_row = in_patch % row_values
    row = patch // SIDE * PATCH + in_patch // row_values
    col = patch % SIDE * PATCH + in_row // 3
    return row, col, in_row % 3


@triton.jit(do_not_specialize=["view_words", "crop_words"])
def rounded_crops_kernel(
    out_ptr,  # [crops, patches, values]
    words_ptr,  # int64
    floats_ptr,  # float32, the same memory
    view_words,  # where the views and crops begin
    crop_words,
    PATCH: tl.constexpr,
    SIDE: tl.constexpr,  # patches along a crop
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # divides the offset of every crop
    BY_ARITHMETIC: tl.constexpr,  # whether the reciprocals give what the division gives
):
    """Two taps an axis, rounded half to even to 8 bits, then normalised."""
    num_values: tl.constexpr = 3 * PATCH * PATCH * SIDE * SIDE
    blocks: tl.constexpr = (num_values + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    crop = words_ptr + crop_words + (program // blocks).to(tl.int64) * CROP_WORDS
    view = words_ptr + view_words + tl.load(crop + CROP_VIEW) * VIEW_WORDS
    value = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = value < num_values
    row, col, channel = _canvas_place(value, PATCH, SIDE)
    row += tl.load(crop + CROP_TOP).to(tl.int32)
    col += tl.load(crop + CROP_LEFT).to(tl.int32)

    row_tap = tl.load(words_ptr + tl.load(view + ROWS) + row, mask=inside, other=0)
    col_tap = tl.load(words_ptr + tl.load(view + COLS) + col, mask=inside, other=0)
    top, left = _low(row_tap), _low(col_tap)
    bottom = tl.minimum(top + 1, tl.load(view + HEIGHT).to(tl.int32) - 1)
    right = tl.minimum(left + 1, tl.load(view + WIDTH).to(tl.int32) - 1)
    row_stride = tl.load(view + ROW_STRIDE).to(tl.int32)
    col_stride = tl.load(view + COL_STRIDE).to(tl.int32)
    source = tl.load(view + ADDRESS).to(tl.pointer_type(tl.uint8))
    source += channel * tl.load(view + CHANNEL_STRIDE).to(tl.int32)
    upper, lower = source + top * row_stride, source + bottom * row_stride
    left, right = left * col_stride, right * col_stride
    a = tl.load(upper + left, mask=inside, other=0).to(tl.float32)
    b = tl.load(upper + right, mask=inside, other=0).to(tl.float32)
    c = tl.load(lower + left, mask=inside, other=0).to(tl.float32)
    d = tl.load(lower + right, mask=inside, other=0).to(tl.float32)

    v1 = _high(row_tap).to(tl.float32, bitcast=True)
    u1 = _high(col_tap).to(tl.float32, bitcast=True)
    v0, u0 = 1.0 - v1, 1.0 - u1
    if tl.load(view + CHAINED) != 0:
        mixed = tl.fma(v1 * u1, d, tl.fma(v1 * u0, c, tl.fma(v0 * u0, a, v0 * u1 * b)))
    else:
        mixed = tl.fma(tl.fma(a, u0, b * u1), v0, tl.fma(c, u0, d * u1) * v1)
    byte = tl.minimum(tl.maximum((mixed + TO_INTEGER) - TO_INTEGER, 0.0), 255.0)

    difference = byte - _by_channel(floats_ptr, 0, channel)
    if BY_ARITHMETIC:
        low = difference * _by_channel(floats_ptr, 9, channel)
        normalized = tl.fma(difference, _by_channel(floats_ptr, 6, channel), low)
    else:
        normalized = tl.div_rn(difference, _by_channel(floats_ptr, 3, channel))
    out = out_ptr + tl.multiple_of(tl.load(crop + CROP_OUTPUT), ALIGNMENT)
    tl.store(out + value, normalized.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _add_tap(total, tap, taps, pixel, weight):
    """The sum with the next tap. Products are added after the first in groups of four, then fused; behind the window,
    pixel and weight are 0."""
    return tl.where(tap < 1 + (taps - 1) // 4 * 4, total + pixel * weight, tl.fma(pixel, weight, total))


@triton.jit(do_not_specialize=["view_words", "num_views", "search_steps"])
def resized_rows_kernel(
    workspace_ptr,  # float32: [height, 3 * content width] of every view
    words_ptr,
    floats_ptr,
    view_words,
    num_views,
    search_steps,  # halvings until one view is left
    BLOCK: tl.constexpr,  # the plan's tile_values
):
    """The horizontal pass with antialias: u / 255, then windows along each row."""
    program = tl.program_id(0).to(tl.int64)
    # The last view whose first tile is not behind this one.
    low = num_views * 0
    high = num_views
    for _ in range(search_steps):
        middle = (low + high) // 2
        first = tl.load(words_ptr + view_words + middle.to(tl.int64) * VIEW_WORDS + FIRST_TILE)
        is_behind = first > program
        high = tl.where(is_behind, middle, high)
        low = tl.where(is_behind, low, middle)
    view = words_ptr + view_words + low.to(tl.int64) * VIEW_WORDS
    row_values = 3 * tl.load(view + CONTENT_WIDTH).to(tl.int32)
    start = (program - tl.load(view + FIRST_TILE)) * BLOCK
    row0 = (start // row_values).to(tl.int32)
    lane = tl.arange(0, BLOCK)
    value = (start % row_values).to(tl.uint32) + lane.to(tl.uint32)
    row = row0 + (value // row_values.to(tl.uint32)).to(tl.int32)
    in_row = (value % row_values.to(tl.uint32)).to(tl.int32)
    col, channel = in_row // 3, in_row % 3
    inside = row < tl.load(view + HEIGHT).to(tl.int32)

    word = tl.load(words_ptr + tl.load(view + COLS) + col, mask=inside, other=0)
    taps = _high(word)
    longest = tl.load(view + COL_TAPS).to(tl.int32)
    weights = floats_ptr + tl.load(view + COL_WEIGHTS)
    col_stride = tl.load(view + COL_STRIDE).to(tl.int32)
    source = tl.load(view + ADDRESS).to(tl.pointer_type(tl.uint8))
    place = row * tl.load(view + ROW_STRIDE).to(tl.int32) + _low(word) * col_stride
    place += channel * tl.load(view + CHANNEL_STRIDE).to(tl.int32)
    weight = col * longest
    high_part, low_part = tl.load(floats_ptr + 6), tl.load(floats_ptr + 9)  # of 1 / 255
    total = tl.zeros([BLOCK], tl.float32)
    for tap in range(longest):
        reads = inside & (tap < taps)
        byte = tl.load(source + (place + tap * col_stride), mask=reads, other=0).to(tl.float32)
        pixel = tl.fma(byte, high_part, byte * low_part)
        total = _add_tap(total, tap, taps, pixel, tl.load(weights + (weight + tap), mask=reads, other=0.0))
    tl.store(workspace_ptr + program * BLOCK + lane, total)  # a view's tiles are its own to their end


@triton.jit(do_not_specialize=["view_words", "crop_words"])
def antialiased_crops_kernel(
    out_ptr,
    workspace_ptr,
    words_ptr,
    floats_ptr,
    view_words,
    crop_words,
    PATCH: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """The vertical pass: windows along each column, clipped to 0..1, padded with 0 and normalised."""
    num_values: tl.constexpr = 3 * PATCH * PATCH * SIDE * SIDE
    blocks: tl.constexpr = (num_values + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    crop = words_ptr + crop_words + (program // blocks).to(tl.int64) * CROP_WORDS
    view = words_ptr + view_words + tl.load(crop + CROP_VIEW) * VIEW_WORDS
    value = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = value < num_values
    row, col, channel = _canvas_place(value, PATCH, SIDE)
    row += (tl.load(crop + CROP_TOP) - tl.load(view + TOP)).to(tl.int32)
    col += (tl.load(crop + CROP_LEFT) - tl.load(view + LEFT)).to(tl.int32)
    width = tl.load(view + CONTENT_WIDTH).to(tl.int32)
    content = inside & (row >= 0) & (row < tl.load(view + CONTENT_HEIGHT).to(tl.int32)) & (col >= 0) & (col < width)

    word = tl.load(words_ptr + tl.load(view + ROWS) + row, mask=content, other=0)
    taps = _high(word)
    longest = tl.load(view + ROW_TAPS).to(tl.int32)
    weights = floats_ptr + tl.load(view + ROW_WEIGHTS)
    source = workspace_ptr + tl.load(view + WORKSPACE)
    place = _low(word) * (3 * width) + 3 * col + channel
    weight = row * longest
    total = tl.zeros([BLOCK], tl.float32)
    for tap in range(longest):
        reads = content & (tap < taps)
        pixel = tl.load(source + (place + tap * (3 * width)), mask=reads, other=0.0)
        total = _add_tap(total, tap, taps, pixel, tl.load(weights + (weight + tap), mask=reads, other=0.0))
    total = tl.minimum(tl.maximum(total, 0.0), 1.0)
    normalized = tl.div_rn(total - _by_channel(floats_ptr, 0, channel), _by_channel(floats_ptr, 3, channel))
    out = out_ptr + tl.multiple_of(tl.load(crop + CROP_OUTPUT), ALIGNMENT)
    tl.store(out + value, normalized.to(out_ptr.dtype.element_ty), mask=inside)
