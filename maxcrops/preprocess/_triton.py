"""Launches the kernels of maxcrops.kernels.crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from maxcrops import _core

if TYPE_CHECKING:
    import torch


def is_interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 was set when Triton was imported: kernels then run on the CPU, on its memory."""
    import triton

    from maxcrops.kernels import crops as kernels

    return not isinstance(kernels.rounded_crops_kernel, triton.JITFunction)


def write_crops(
    native: _core.Preprocessor, images: Sequence[torch.Tensor], layouts: Sequence[_core.Layout], out: torch.Tensor
) -> None:
    """Writes the crops of uint8 [height, width, 3] images of any strides to `out` [crops, patches, values], contiguous,
    all on one device and its current stream: one launch, or two where windows have more than two taps. The host waits
    for nothing.

    Memory on the device, beyond the output: the plan's words, 8 bytes each (some 20 a view, 4 a crop, and for each row
    and column of a canvas one, with antialias half a window more), and the horizontally resized rows of every view with
    such windows, 12 bytes for each row of the image and column of the content.
    """
    import torch

    from maxcrops.kernels import crops as kernels

    if not images:
        return
    crop_values, patch = out.shape[1] * out.shape[2], layouts[0].patch_size
    side = layouts[0].views[0].crops[0][2] // patch
    sources = [(image.data_ptr(), *image.stride()) for image in images]
    plan = _core.DevicePlan(native, sources, layouts, kernels.TILE["ROWS"], kernels.TILE["BLOCK"])
    # torch keeps pinned memory from reuse until the copies from it are done.
    host = torch.empty(plan.num_words, dtype=torch.int64, pin_memory=out.is_cuda)
    plan.write(host.numpy())
    words = host.to(out.device, non_blocking=True)
    tables = (words, words.view(torch.float32))
    begins = (plan.first_view_word, plan.first_crop_word)
    crops_grid = (plan.num_crops * side * -(-3 * patch * side // kernels.BLOCK),)
    shape: dict[str, Any] = {
        "PATCH": patch,
        "SIDE": side,
        "BLOCK": kernels.BLOCK,
        "ALIGNMENT": min(crop_values & -crop_values, 16),  # the power of 2 in it: the widest store is of 16 bytes
        "BY_ARITHMETIC": plan.by_arithmetic,
        **kernels.OPTIONS,
    }
    with _current(out.device):
        if plan.is_rounded:
            kernels.rounded_crops_kernel[crops_grid](out, *tables, *begins, **shape)
            return
        workspace = empty((plan.workspace_floats,), torch.float32, out.device, "the resized rows of a batch")
        if plan.num_tiles:
            halvings = (plan.num_views - 1).bit_length()
            kernels.resized_rows_kernel[(plan.num_tiles,)](
                workspace, *tables, begins[0], plan.num_views, halvings, **kernels.TILE, **kernels.OPTIONS
            )
        kernels.antialiased_crops_kernel[crops_grid](out, workspace, *tables, *begins, **shape)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, what: str) -> torch.Tensor:
    """New memory on the device.

    Raises:
        torch.OutOfMemoryError: torch's, and before it what the memory was for, how many bytes, and what needs fewer.
    """
    import torch

    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        num_bytes = math.prod(shape) * dtype.itemsize
        raise torch.OutOfMemoryError(
            f"[preprocess] {what} need {num_bytes} bytes ({num_bytes / 2**30:.2f} GiB) on {device}; give fewer images"
            f" at once, lower max_crops, or a 16-bit dtype: {error}"
        ) from error


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
