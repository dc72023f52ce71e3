"""The memory that CUDA's kernels use inside of an operator, which its outputs do not show: a table, with its sources.

Sources are cited as in ``_attention``. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maxcrops.planning.dryrun._attention import (
    GRID_LIMIT,
    HALF,
    AttentionCall,
    AttentionPlatform,
    dtype_name,
    flash_head_dim,
    round_up,
)
from maxcrops.planning.dryrun._hybrid import count_true


@dataclass(frozen=True)
class Temporary:
    """Memory that a CUDA operator allocates and frees within one call, which its outputs do not show."""

    operator: str
    """Schema name, as a dispatch mode sees it."""
    text: str
    """The formula in words."""
    num_bytes: Callable[[AttentionPlatform, Sequence[Any]], int]
    """From the platform and the operator's arguments, in the order of its schema."""
    source: str
    verified: bool
    """Read in PyTorch's source, rather than estimated. None was measured on a GPU."""


def _call_of(query: Any, key: Any, value: Any) -> AttentionCall:
    """From tensors [batch, heads, length, size], or anything that has their shapes and dtypes."""
    batch, heads, queries, head_dim = query.shape
    return AttentionCall(
        batch=batch,
        heads=heads,
        queries=queries,
        keys=key.shape[2],
        head_dim=head_dim,
        kv_heads=key.shape[1],
        value_dim=value.shape[3],
        dtype=dtype_name(query),
    )


def _chunk(platform: AttentionPlatform, call: AttentionCall) -> int:
    """Batch entries of a chunk that the efficient kernel copies into its outputs; 0 where it makes none."""
    return GRID_LIMIT if call.batch > GRID_LIMIT and platform.torch >= (2, 8) else 0


def _efficient_forward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[:3])
    batch = _chunk(platform, call)
    outputs = batch * call.heads * call.queries * call.value_dim * call.element_size
    # Kernels for sizes up to 64 and 128 keep the output in registers; the one for larger sizes accumulates in memory
    # unless the output is float32 itself (kernel_forward.h kNeedsOutputAccumulatorBuffer, cutlassF.h).
    accumulated = call.dtype in HALF and max(call.head_dim, call.value_dim) > 128
    rows = (batch or call.batch) * call.heads * call.queries
    return outputs + (rows * call.value_dim * 4 if accumulated else 0)


def _efficient_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[1:4])
    batch = _chunk(platform, call)
    gradients = batch * call.element_size * (call.heads * call.queries * call.head_dim)
    gradients += batch * call.element_size * call.kv_heads * call.keys * (call.head_dim + call.value_dim)
    call = replace(call, batch=batch or call.batch)
    rows = call.batch * call.heads * call.queries
    half = call.dtype in HALF
    # delta; outside the half kernels it is summed from a float32 product of output and gradient.
    delta = rows * 4 + (0 if half else rows * call.value_dim * 4)
    return gradients + delta + _efficient_workspace(platform, call)


def _efficient_workspace(platform: AttentionPlatform, call: AttentionCall) -> int:
    """kernel_backward.h workspace_size for the kernel that cutlassB.h lists first for the size."""
    half = call.dtype in HALF
    largest = max(call.head_dim, call.value_dim)
    capability = platform.compute_capability
    # Only these have the shared memory for blocks of 128 x 128.
    roomy = capability in ((8, 0), (9, 0)) or capability[0] == 10
    if largest <= 64:
        rows, columns, in_registers = 64, 64, half and capability >= (8, 0)
    elif largest <= 96 and half and capability in ((8, 6), (8, 9)):
        rows, columns, in_registers = 128, 64, True
    elif largest <= 128 and half and roomy:
        rows, columns, in_registers = 128, 128, True
    elif largest <= 128 and half and capability >= (8, 0):
        rows, columns, in_registers = 64, 64, False
    else:
        rows, columns, in_registers = 128, 64, False
    groups = max(call.batch * call.heads, 1)
    splits = -(-call.keys // columns)
    if groups >= 256 and call.keys <= 2 * columns:
        splits = 1
    if half and not in_registers:
        splits = min(splits, 200 // groups)
    splits = max(splits, 1)
    tile = 4 + rows * columns  # lock, counter and padding before the buffer
    floats = -(-call.queries // rows) * -(-call.head_dim // columns) * tile
    if half and not in_registers:
        floats += splits * columns * (round_up(call.head_dim, rows) + round_up(call.value_dim, rows))
    return groups * round_up(floats, 4) * 4


def _flash_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[1:4])
    rows = call.batch * call.heads * round_up(call.queries, 128)
    num_bytes = rows * 4 + rows * flash_head_dim(call.head_dim) * 4
    if call.heads != call.kv_heads:
        num_bytes += 2 * call.batch * call.keys * call.heads * call.head_dim * call.element_size
    return num_bytes


def _cudnn_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[1:4])
    return call.batch * call.heads * call.queries * (call.head_dim + 1) * 4


def _masked_scatter(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    target, mask = args[0], args[1]
    elements: int = math.prod(target.shape)
    return 8 * elements + (elements if tuple(mask.shape) != tuple(target.shape) else 0)


def _bool_index(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    num_bytes = 0
    for index in args[1]:
        if index is not None and dtype_name(index) == "bool":
            # Values of a fake mask are not known: all of them, then.
            count = math.prod(index.shape) if hasattr(index, "fake_mode") else count_true(index)
            num_bytes += 8 * len(index.shape) * count
    return num_bytes


def _index_put(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    accumulate = len(args) > 3 and bool(args[3])
    indices = [index for index in args[1] if index is not None]
    return _bool_index(platform, args) + (48 * max(math.prod(i.shape) for i in indices) if accumulate else 0)


def _embedding_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    gradient, indices = args[0], args[1]
    count = math.prod(indices.shape)
    # Up to 3072 indices one kernel adds up in place.
    return 0 if count <= 3072 else 40 * count + count // 10 * gradient.shape[-1] * 4


TEMPORARIES: tuple[Temporary, ...] = (
    Temporary(
        "aten::_scaled_dot_product_efficient_attention",
        "half types, head size above 128: batch x heads x queries x value size x 4; batch above 65535 (2.8 and newer): "
        "also the output of one chunk of 65535",
        _efficient_forward,
        "2.13 header kernel_forward.h, cutlassF.h; chunks #154029",
        True,
    ),
    Temporary(
        "aten::_scaled_dot_product_efficient_attention_backward",
        "delta: batch x heads x queries x 4 (float32: x (value size + 1)); dQ in float32 tiles; in half types, without "
        "room for dK and dV in registers, their float32 tiles; batch above 65535: also the gradients of one chunk",
        _efficient_backward,
        "attention_backward.cu; 2.13 header kernel_backward.h workspace_size, cutlassB.h. Which block size fits shared "
        "memory is assumed",
        True,
    ),
    Temporary(
        "aten::_scaled_dot_product_flash_attention_backward",
        "batch x heads x queries (in 128s) x (head size (in 32s, above 128 in 64s) + 1) x 4; grouped heads: also dK "
        "and dV with all heads, 2 x batch x heads x keys x head size x bytes of the type",
        _flash_backward,
        "flash_api.cpp mha_bwd: softmax_d, dq_accum, dk_expanded, dv_expanded",
        True,
    ),
    Temporary(
        "aten::_scaled_dot_product_cudnn_attention_backward",
        "batch x heads x queries x (head size + 1) x 4",
        _cudnn_backward,
        "cuDNN's accumulator of dQ (#186142 names it) and its row sums; the library's workspace may be larger",
        False,
    ),
    *(
        Temporary(
            f"aten::{name}",
            "8 per element of the target (prefix sum, int64), and 1 more where the mask is broadcast to it",
            _masked_scatter,
            "aten/src/ATen/native/cuda/IndexKernel.cu launch_masked_scatter_kernel",
            True,
        )
        for name in ("masked_scatter", "masked_scatter_")
    ),
    Temporary(
        "aten::index",
        "8 x dimensions x true elements of each boolean index (nonzero)",
        _bool_index,
        "aten/src/ATen/native/IndexingUtils.h expandTensors",
        True,
    ),
    *(
        Temporary(
            f"aten::{name}",
            "as index for boolean indices; accumulating: 48 per index (linear and sorted, their order, space to sort)",
            _index_put,
            "aten/src/ATen/native/cuda/Indexing.cu index_put_with_sort_kernel; the sort's own space is an estimate",
            False,
        )
        for name in ("index_put", "index_put_", "_index_put_impl_")
    ),
    Temporary(
        "aten::embedding_dense_backward",
        "above 3072 indices: 40 per index (sorted indices, order, sort space) and, for repeated ids, a tenth of the "
        "gradient in float32",
        _embedding_backward,
        "aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu; estimated for few distinct ids, as image tokens are",
        False,
    ),
)
"""The memory that CUDA's kernels use inside.

Not here, since their tensors are real ones that a dispatch mode sees: the mask's conversion and padding (patched_sdpa
makes them). Not here, as unknown: the workspace of cuDNN's convolutions and of its attention, the space of sorts, and
flash's split of long keys among idle multiprocessors (some MiB, in decoding).
"""

_BY_OPERATOR: dict[str, tuple[Temporary, ...]] = {
    row.operator: tuple(other for other in TEMPORARIES if other.operator == row.operator) for row in TEMPORARIES
}


def extra_bytes(operator: str, platform: AttentionPlatform, args: Sequence[Any]) -> int:
    """Bytes of temporaries beside the operator's own outputs, live until it returns; 0 for one without a row.

    Args:
        operator: Schema name, "aten::masked_scatter".
        args: Its positional arguments; of tensors only shapes and dtypes are read, and the values of real boolean
            indices.
    """
    return sum(row.num_bytes(platform, args) for row in _BY_OPERATOR.get(operator, ()))


def cublas_workspace_bytes(platform: AttentionPlatform) -> int:
    """What the first matrix product allocates for good, once per handle and stream.

    8,519,680 bytes; 32 MiB on compute capability 9.0 and, in newer versions, 10.x and 12.x (CublasHandlePool.cpp
    parseChosenWorkspaceSize; since which version is not verified, 2.9 assumed). cuBLASLt is taken to share it.
    """
    major = platform.compute_capability[0]
    if platform.compute_capability == (9, 0) or (major in (10, 12) and platform.torch >= (2, 9)):
        return 32 * 2**20
    return 2 * 4096 * 1024 + 8 * 16 * 1024
