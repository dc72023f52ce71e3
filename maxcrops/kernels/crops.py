"""From uint8 images to the patches of their crops, for a ragged batch in one or two launches.

All geometry comes from a block of words that the core made (csrc/core/pixels/device_plan.h): which view a crop is cut
from, where the view's content lies, which source pixels and weights an output pixel has. The order of operations is the
CPU's (csrc/core/pixels/pixel_kernels.h, maxcrops/preprocess/_reference.py); a fused multiply-add is written tl.fma, and
every other operation rounds.

Launches have one dimension: CUDA's second and third end at 65535. So have blocks: Triton 3.6 and 3.9 spread two over
the threads in different orders, and move values between threads where loads and stores then disagree.
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
ROW_AXIS: tl.constexpr = tl.constexpr(int(_View.ROWS))
COL_AXIS: tl.constexpr = tl.constexpr(int(_View.COLS))
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

BLOCK = 128
"""Values side by side of each row of a crop that a program makes, four a thread."""

TILE = {"ROWS": 16, "BLOCK": 128}
"""Horizontally resized rows that a program makes, and values of each."""

OPTIONS: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": False}
"""Of every launch. Without fusion, a product and a sum are two roundings; tl.fma stays one."""


@triton.jit
def _low(word):
    return word.to(tl.int32)


@triton.jit
def _high(word):
    return (word >> 32).to(tl.int32)


@triton.jit
def _patch_row(words_ptr, view_words, crop_words, PATCH: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """What a program of a crop makes: its crop, the view of that, its first row of `PATCH` and which values of a row,
    both counted within the crop, and whether there is such a value."""
    row_values: tl.constexpr = 3 * PATCH * SIDE
    blocks: tl.constexpr = (row_values + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    crop = words_ptr + crop_words + (program // (SIDE * blocks)).to(tl.int64) * CROP_WORDS
    view = words_ptr + view_words + tl.load(crop + CROP_VIEW) * VIEW_WORDS
    value = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return crop, view, program // blocks % SIDE * PATCH, value, value < row_values


@triton.jit
def _in_patches(out_ptr, crop, row, value, PATCH: tl.constexpr, SIDE: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Where the values of a first row of patches go. The next row of a patch is 3 * PATCH elements behind."""
    out = out_ptr + tl.multiple_of(tl.load(crop + CROP_OUTPUT), ALIGNMENT) + row * (3 * PATCH * SIDE)
    return out + (value // (3 * PATCH) * (3 * PATCH * PATCH) + value % (3 * PATCH))


@triton.jit
def _two_taps(view, first, value):
    """Where two pixels side by side lie for each value of a row, behind a source, given the first one's column. That
    source is the lowest address of a row: offsets are unsigned, and need no sign in the upper half of an address."""
    last = tl.load(view + WIDTH).to(tl.int32) - 1
    col_stride = tl.load(view + COL_STRIDE).to(tl.int32)
    channel_stride = tl.load(view + CHANNEL_STRIDE).to(tl.int32)
    lowest = tl.minimum(last * col_stride, 0) + tl.minimum(2 * channel_stride, 0)
    source = tl.load(view + ADDRESS).to(tl.pointer_type(tl.uint8)) + lowest
    channel = value % 3 * channel_stride - lowest
    left = (first * col_stride + channel).to(tl.uint32)
    right = (tl.minimum(first + 1, last) * col_stride + channel).to(tl.uint32)
    return source, left, right


@triton.jit
def _blended_row(source, left, right, u0, u1, high, low, IS_ROUNDED: tl.constexpr):
    """Two pixels of a row for each value; antialiased ones are divided by 255 first, by its reciprocal's two parts."""
    a, b = tl.load(source + left).to(tl.float32), tl.load(source + right).to(tl.float32)
    if IS_ROUNDED:
        return tl.fma(a, u0, b * u1)
    else:
        return tl.fma(tl.fma(b, high, b * low), u1, tl.fma(a, high, a * low) * u0)


@triton.jit
def _blended_rows(
    top, blended, upper, lower, source, row_stride, last, left, right, u0, u1, high, low, IS_ROUNDED: tl.constexpr
):
    """The row `top` and the next one, given the rows from `blended` on: of an enlarged image, most output rows are
    between two that the one before them was between, or share one with it."""
    if top != blended:
        first, second = source + top * row_stride, source + tl.minimum(top + 1, last) * row_stride
        upper = lower if top == blended + 1 else _blended_row(first, left, right, u0, u1, high, low, IS_ROUNDED)
        lower = _blended_row(second, left, right, u0, u1, high, low, IS_ROUNDED)
    return upper, lower


@triton.jit
def _round_and_normalize(pixel, offset, divisor, high, low, BY_ARITHMETIC: tl.constexpr):
    """Weights are in 0..1, and two add up to 1 but for a rounding: what is rounded to 8 bits needs no bounds."""
    difference = (pixel + TO_INTEGER) - TO_INTEGER - offset
    if BY_ARITHMETIC:
        return tl.fma(difference, high, difference * low)
    else:
        return tl.div_rn(difference, divisor)


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
    crop, view, first_row, value, inside = _patch_row(words_ptr, view_words, crop_words, PATCH, SIDE, BLOCK)
    rows = words_ptr + tl.load(view + ROW_AXIS) + tl.load(crop + CROP_TOP) + first_row
    cols = words_ptr + tl.load(view + COL_AXIS) + tl.load(crop + CROP_LEFT)
    col = tl.load(cols + value // 3, mask=inside, other=0)
    source, left, right = _two_taps(view, _low(col), value)
    row_stride = tl.load(view + ROW_STRIDE).to(tl.int32)
    last = tl.load(view + HEIGHT).to(tl.int32) - 1
    u1 = _high(col).to(tl.float32, bitcast=True)
    u0 = 1.0 - u1
    constants = floats_ptr + value % 3
    offset, divisor = tl.load(constants), tl.load(constants + 3)
    high, low = tl.load(constants + 6), tl.load(constants + 9)
    out = _in_patches(out_ptr, crop, first_row, value, PATCH, SIDE, ALIGNMENT)
    if tl.load(view + CHAINED) != 0:
        for row in range(PATCH):
            word = tl.load(rows + row)
            top = source + _low(word) * row_stride
            bottom = source + tl.minimum(_low(word) + 1, last) * row_stride
            v1 = _high(word).to(tl.float32, bitcast=True)
            v0 = 1.0 - v1
            a, b = tl.load(top + left).to(tl.float32), tl.load(top + right).to(tl.float32)
            c, d = tl.load(bottom + left).to(tl.float32), tl.load(bottom + right).to(tl.float32)
            pixel = tl.fma(v1 * u1, d, tl.fma(v1 * u0, c, tl.fma(v0 * u0, a, v0 * u1 * b)))
            normalized = _round_and_normalize(pixel, offset, divisor, high, low, BY_ARITHMETIC)
            tl.store(out + row * (3 * PATCH), normalized.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        upper = tl.full([BLOCK], 0.0, tl.float32)
        lower, blended = upper, -2  # none yet
        for row in range(PATCH):
            word = tl.load(rows + row)
            upper, lower = _blended_rows(
                _low(word), blended, upper, lower, source, row_stride, last, left, right, u0, u1, 0.0, 0.0, True
            )
            blended = _low(word)
            v1 = _high(word).to(tl.float32, bitcast=True)
            pixel = tl.fma(upper, 1.0 - v1, lower * v1)
            normalized = _round_and_normalize(pixel, offset, divisor, high, low, BY_ARITHMETIC)
            tl.store(out + row * (3 * PATCH), normalized.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _clip_and_normalize(pixel, mean, std, reciprocal, BY_ARITHMETIC: tl.constexpr):
    """A quotient that is corrected by its remainder is one of two, and corrected once more the rounded one."""
    difference = tl.minimum(tl.maximum(pixel, 0.0), 1.0) - mean
    if BY_ARITHMETIC:
        quotient = difference * reciprocal
        quotient = tl.fma(tl.fma(-quotient, std, difference), reciprocal, quotient)
        return tl.fma(tl.fma(-quotient, std, difference), reciprocal, quotient)
    else:
        return tl.div_rn(difference, std)


@triton.jit
def _separate(taps):
    """How many products of a window are added after rounding: the first, and groups of four behind it. The rest is
    fused."""
    return 1 + (taps - 1) // 4 * 4


@triton.jit
def _add_tap(total, source, added, fused, high, low):
    """The sum with a pixel, over 255, of one weight: added after rounding, or fused, where the other is 0."""
    byte = tl.load(source).to(tl.float32)
    pixel = tl.fma(byte, high, byte * low)
    return tl.fma(pixel, fused, total + pixel * added)


@triton.jit(do_not_specialize=["view_words", "num_views", "search_steps"])
def resized_rows_kernel(
    workspace_ptr,  # float32: [height, 3 * content width] of every view
    words_ptr,
    floats_ptr,
    view_words,
    num_views,
    search_steps,  # halvings until one view is left
    ROWS: tl.constexpr,  # the plan's tile_rows
    BLOCK: tl.constexpr,  # its tile_values
):
    """The horizontal pass with antialias: u / 255, then windows along each row. Four rows at once share what a tap of a
    column needs; near the end of an image, the last one is made again."""
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
    tiles_across = (row_values + BLOCK - 1) // BLOCK
    tile = (program - tl.load(view + FIRST_TILE)).to(tl.int32)
    last = tl.load(view + HEIGHT).to(tl.int32) - 1
    first_row = tile // tiles_across * ROWS
    value = tile % tiles_across * BLOCK + tl.arange(0, BLOCK)
    inside = value < row_values
    col = tl.where(inside, value // 3, 0)

    word = tl.load(words_ptr + tl.load(view + COL_AXIS) + col)
    last_tap = _high(word) - 1
    separate = _separate(_high(word))
    longest = tl.load(view + COL_TAPS).to(tl.int32)
    weights = floats_ptr + tl.load(view + COL_WEIGHTS) + col * longest
    row_stride = tl.load(view + ROW_STRIDE).to(tl.int32)
    col_stride = tl.load(view + COL_STRIDE).to(tl.int32)
    source = tl.load(view + ADDRESS).to(tl.pointer_type(tl.uint8))
    place = _low(word) * col_stride + value % 3 * tl.load(view + CHANNEL_STRIDE).to(tl.int32)
    high, low = tl.load(floats_ptr + 12), tl.load(floats_ptr + 13)  # of 1 / 255
    out = workspace_ptr + tl.load(view + WORKSPACE) + value
    for row in range(first_row, tl.minimum(first_row + ROWS, last + 1), 4):
        a = tl.full([BLOCK], 0.0, tl.float32)
        b, c, d = a, a, a
        row_b, row_c, row_d = tl.minimum(row + 1, last), tl.minimum(row + 2, last), tl.minimum(row + 3, last)
        for tap in range(longest):
            # Behind a window, its last pixel again, and a weight of 0: that changes no sum, be it rounded or fused.
            weight = tl.load(weights + tap)
            added, fused = tl.where(tap < separate, weight, 0.0), tl.where(tap < separate, 0.0, weight)
            at = place + tl.minimum(tap, last_tap) * col_stride
            a = _add_tap(a, source + row * row_stride + at, added, fused, high, low)
            b = _add_tap(b, source + row_b * row_stride + at, added, fused, high, low)
            c = _add_tap(c, source + row_c * row_stride + at, added, fused, high, low)
            d = _add_tap(d, source + row_d * row_stride + at, added, fused, high, low)
        tl.store(out + row * row_values, a, mask=inside)
        tl.store(out + row_b * row_values, b, mask=inside)
        tl.store(out + row_c * row_values, c, mask=inside)
        tl.store(out + row_d * row_values, d, mask=inside)


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
    BY_ARITHMETIC: tl.constexpr,
):
    """Windows along each column, clipped to 0..1, padded with 0 and normalised: of horizontally resized rows, or, where
    no window has more than two taps, of the source. There, a first product is rounded and the second one fused."""
    crop, view, first_row, value, inside = _patch_row(words_ptr, view_words, crop_words, PATCH, SIDE, BLOCK)
    content_row = first_row + (tl.load(crop + CROP_TOP) - tl.load(view + TOP)).to(tl.int32)
    height = tl.load(view + CONTENT_HEIGHT).to(tl.int32)
    row_values = 3 * tl.load(view + CONTENT_WIDTH).to(tl.int32)
    place = value + 3 * (tl.load(crop + CROP_LEFT) - tl.load(view + LEFT)).to(tl.int32)
    content = (place >= 0) & (place < row_values)
    place = tl.where(content, place, 0)
    rows = words_ptr + tl.load(view + ROW_AXIS)
    weights = floats_ptr + tl.load(view + ROW_WEIGHTS)
    longest = tl.load(view + ROW_TAPS).to(tl.int32)
    constants = floats_ptr + value % 3
    mean, std, reciprocal = tl.load(constants), tl.load(constants + 3), tl.load(constants + 6)
    out = _in_patches(out_ptr, crop, first_row, value, PATCH, SIDE, ALIGNMENT)
    workspace = tl.load(view + WORKSPACE)
    if workspace < 0:
        col = tl.load(words_ptr + tl.load(view + COL_AXIS) + place // 3)
        col_longest = tl.load(view + COL_TAPS).to(tl.int32)
        col_weights = floats_ptr + tl.load(view + COL_WEIGHTS) + place // 3 * col_longest
        u0 = tl.load(col_weights, mask=content, other=0.0)
        u1 = tl.load(col_weights + 1, mask=content & (_high(col) > 1), other=0.0)
        source, left, right = _two_taps(view, _low(col), value)
        row_stride = tl.load(view + ROW_STRIDE).to(tl.int32)
        last = tl.load(view + HEIGHT).to(tl.int32) - 1
        high, low = tl.load(floats_ptr + 12), tl.load(floats_ptr + 13)  # of 1 / 255
        upper = tl.full([BLOCK], 0.0, tl.float32)
        lower, blended = upper, -2  # none yet
        for row in range(PATCH):
            y = content_row + row
            word = tl.load(rows + y, mask=(y >= 0) & (y < height), other=0)
            v0 = tl.load(weights + y * longest, mask=_high(word) > 0, other=0.0)
            v1 = tl.load(weights + y * longest + 1, mask=_high(word) > 1, other=0.0)
            upper, lower = _blended_rows(
                _low(word), blended, upper, lower, source, row_stride, last, left, right, u0, u1, high, low, False
            )
            blended = _low(word)
            normalized = _clip_and_normalize(tl.fma(lower, v1, upper * v0), mean, std, reciprocal, BY_ARITHMETIC)
            tl.store(out + row * (3 * PATCH), normalized.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        resized = workspace_ptr + workspace + place
        for row in range(PATCH):
            y = content_row + row
            word = tl.load(rows + y, mask=(y >= 0) & (y < height), other=0)
            taps = _high(word)  # none in the padding
            separate = tl.minimum(_separate(taps), taps)
            total = tl.full([BLOCK], 0.0, tl.float32)
            for tap in range(separate):
                pixel = tl.load(resized + (_low(word) + tap) * row_values)
                total += pixel * tl.load(weights + (y * longest + tap))
            for tap in range(separate, taps):
                pixel = tl.load(resized + (_low(word) + tap) * row_values)
                total = tl.fma(pixel, tl.load(weights + (y * longest + tap)), total)
            total = tl.where(content, total, 0.0)
            normalized = _clip_and_normalize(total, mean, std, reciprocal, BY_ARITHMETIC)
            tl.store(out + row * (3 * PATCH), normalized.to(out_ptr.dtype.element_ty), mask=inside)
