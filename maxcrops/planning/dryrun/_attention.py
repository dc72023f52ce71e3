"""The attention kernel that CUDA would take, the launches that break its limits, and the memory that it uses inside.

PyTorch's ``scaled_dot_product_attention`` picks one of four kernels from shapes, types and GPU. Here the choice is made
in Python, from PyTorch's own rules, for a GPU and a PyTorch that need not be there; then the chosen operator is called
on fake tensors, so that outputs, log-sum-exps and gradients are those of CUDA.

Sources. "2.13 header" is a file in the installed wheel of PyTorch 2.13.0 (``sdp_utils_cpp.h``, ``Context.h``,
``mem_eff_attention/*.h``), read there. ``sdp_utils.cpp``, ``flash_api.cpp`` and ``attention_backward.cu`` are not in a
wheel; they were read in public copies of 2025 and 2026 (under ``aten/src/ATen/native/transformers/cuda``). ``#n`` is an
issue or pull request of pytorch/pytorch. Nothing here was measured on a GPU.

Not modelled: switches that the user may set (``sdpa_kernel``, ``TORCH_CUDNN_SDPA_DEPRIORITIZED``, deterministic
algorithms), nested tensors, ROCm, FlashAttention 3, and dropout rates that newer cuDNN choosers round to 1/16.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from maxcrops.planning.dryrun._hybrid import count_true
from maxcrops.planning.dryrun._launch import Launch

if TYPE_CHECKING:
    from torch import Tensor

Kernel: TypeAlias = Literal["flash", "efficient", "cudnn", "math"]

GRID_LIMIT = 65535
"""Largest gridDim.y and gridDim.z of CUDA; gridDim.x goes to 2**31 - 1."""

_HALF = ("bfloat16", "float16")
_OLDEST_TORCH = (2, 6)


@lru_cache
def _version(text: str) -> tuple[int, int]:
    """(2, 13) of "2.13", "2.13.0+cu130" or "2.13.0.dev20260612"."""
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdigit() and minor.isdigit()):
        raise ValueError(f"[dry_run] torch_version must look like '2.13', got {text!r}")
    return int(major), int(minor)


@dataclass(frozen=True)
class AttentionPlatform:
    """What the choice of a kernel depends on beside the call.

    Versions after 2.13 are taken for 2.13, the newest whose rules were read.
    """

    compute_capability: tuple[int, int]
    torch_version: str = "2.13"
    """2.6 or newer."""
    cudnn_version: tuple[int, int, int] | None = None
    """(9, 20, 0) as ``torch.backends.cudnn.version()`` gives 92000; None: no cuDNN attention. See bundled_cudnn."""
    disabled: tuple[Kernel, ...] = ()
    """Kernels that the model's own code turns off."""

    def __post_init__(self) -> None:
        if self.torch < _OLDEST_TORCH:
            raise ValueError(
                f"[dry_run] torch_version must be 2.6 or newer, got {self.torch_version!r}; older choices of attention "
                "kernels are not modelled"
            )

    @property
    def torch(self) -> tuple[int, int]:
        """(major, minor)"""
        return _version(self.torch_version)

    def order(self) -> tuple[Kernel, ...]:
        """Kernels in the order in which they are tried.

        Flash, efficient, math (2.13 header Context.h, sdp_priority_order; cuDNN stands after math, so it is not
        reached). On data-center Hopper and Blackwell cuDNN comes first where it is new enough: 2.9 from cuDNN 9.9
        (#162073), later versions above 9.15.0 (#169849, sdp_utils.cpp check_prefer_cudnn_attention). 2.5.0 had it on,
        2.5.1 to 2.8 off (#138522).
        """
        fallback: tuple[Kernel, ...] = ("flash", "efficient", "math")
        order = ("cudnn", *fallback) if self._prefers_cudnn() else fallback
        return tuple(kernel for kernel in order if kernel not in self.disabled)

    def _prefers_cudnn(self) -> bool:
        if self.cudnn_version is None or self.torch < (2, 9):
            return False
        preferred = [(9, 0), (10, 0)] if self.torch < (2, 11) else [(9, 0), (10, 0), (10, 3)]  # B300: #170800
        needed = (9, 9, 0) if self.torch == (2, 9) else (9, 15, 1)
        return self.compute_capability in preferred and self.cudnn_version >= needed


def bundled_cudnn(torch_version: str) -> tuple[int, int, int] | None:
    """The cuDNN that PyPI's default CUDA wheel of this PyTorch brings, as the choice sees it; None before 2.9.

    From the wheels' metadata: 9.10.2 (2.10), 9.19.0 (2.11), 9.20.0 (2.12). 2.9 asks for the version that it was
    compiled with, 9.8 in the CUDA 12.8 wheels although they bring 9.10.2 (#165801). 2.13's is assumed to be 2.12's.
    """
    version = _version(torch_version)
    if version < (2, 9):
        return None
    return {(2, 9): (9, 8, 0), (2, 10): (9, 10, 2), (2, 11): (9, 19, 0)}.get(version, (9, 20, 0))


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """One call of scaled_dot_product_attention: query [batch, heads, queries, head_dim] on keys and values."""

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    kv_heads: int = 0
    """Heads of key and value; 0: as many as of the query."""
    value_dim: int = 0
    """Head size of the value; 0: head_dim."""
    dtype: str = "bfloat16"
    """Of query, key and value: "bfloat16", "float16", "float32", "float64"."""
    mask: Literal["bool", "float"] | None = None
    mask_shape: tuple[int, ...] = ()
    """As given, before it is broadcast; (): [batch, 1, queries, keys]."""
    mask_requires_grad: bool = False
    causal: bool = False
    dropout: float = 0.0
    requires_grad: bool = False
    """Gradients are on, and query, key or value asks for them."""
    enable_gqa: bool = False
    fusable_layout: bool = True
    """Query, key and value are 4-D, of one batch size, contiguous in the last dimension, as is the mask."""

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.value_dim:
            object.__setattr__(self, "value_dim", self.head_dim)
        if self.mask and not self.mask_shape:
            object.__setattr__(self, "mask_shape", (self.batch, 1, self.queries, self.keys))

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(batch, heads, queries, keys, head size), as a Launch shows it."""
        return self.batch, self.heads, self.queries, self.keys, self.head_dim

    @property
    def element_size(self) -> int:
        """Bytes of one element of the query."""
        return 2 if self.dtype in _HALF else 8 if self.dtype == "float64" else 4


@dataclass(frozen=True)
class Condition:
    """What a call must satisfy for a kernel."""

    kernel: Kernel
    rule: str
    """In words, after "must"."""
    holds: Callable[[AttentionPlatform, AttentionCall], bool]
    source: str


def _heads_match(call: AttentionCall, *, grouped: bool) -> bool:
    if grouped and call.enable_gqa:
        return call.heads % call.kv_heads == 0
    return call.heads == call.kv_heads


def _efficient_alignment(platform: AttentionPlatform, call: AttentionCall) -> int:
    """Elements that a head's size must be a multiple of (sdp_utils.cpp minimum_gemm_alignment)."""
    half = call.dtype in _HALF
    if platform.compute_capability >= (8, 0):
        return 8 if half else 4
    return 8 if half and platform.compute_capability >= (7, 0) else 1


def _cudnn_head_limit(platform: AttentionPlatform, call: AttentionCall) -> int:
    version = platform.cudnn_version or (0, 0, 0)
    if platform.compute_capability == (9, 0) and version >= (9, 10, 0):
        return 256
    if platform.compute_capability[0] == 10 and version >= (9, 11, 0) and (call.head_dim, call.value_dim) == (192, 128):
        return 192
    return 128


_FUSED = "query, key and value 4-D, of one batch size and contiguous in the last dimension"
_LAYOUT = (
    "2.13 header sdp_utils_cpp.h: check_tensor_shapes, check_batch_size_and_num_heads_dense, check_last_dim_stride"
)
_LENGTHS = "2.13 header sdp_utils_cpp.h: check_nonzero_sequence_lengths_dense"
_HEADS = "2.13 header sdp_utils_cpp.h: check_grouped_query_attention"

CONDITIONS: tuple[Condition, ...] = (
    Condition("flash", _FUSED, lambda _, call: call.fusable_layout, _LAYOUT),
    Condition("flash", "have queries and keys", lambda _, call: call.queries > 0 and call.keys > 0, _LENGTHS),
    Condition(
        "flash",
        "have no mask",
        lambda _, call: call.mask is None,
        "2.13 header sdp_utils_cpp.h: check_for_attn_mask",
    ),
    Condition(
        "flash",
        "have heads of one size, at most 256",
        lambda _, call: call.head_dim == call.value_dim <= 256,
        "sdp_utils.cpp: check_head_dim_size_flash",
    ),
    Condition(
        "flash",
        "be on compute capability 8.0 to 12.1",
        lambda platform, _: (8, 0) <= platform.compute_capability <= (12, 1),
        "sdp_utils.cpp: check_flash_attention_hardware_support",
    ),
    Condition(
        "flash",
        "not train heads of 193 to 224, or above 224 with dropout, on compute capability 8.6 to 8.9 or 12.0 to 12.1",
        lambda platform, call: (
            not (
                call.requires_grad
                and ((8, 6) <= platform.compute_capability <= (8, 9) or platform.compute_capability[0] == 12)
                and call.head_dim > 192
                and (call.head_dim <= 224 or call.dropout > 0)
            )
        ),
        "sdp_utils.cpp: check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120",
    ),
    Condition(
        "flash",
        "have as many queries as keys if it is causal",
        lambda _, call: not call.causal or call.queries == call.keys,
        "sdp_utils.cpp: check_flash_causal_non_square_seqlens",
    ),
    Condition(
        "flash",
        "be in bfloat16 or float16",
        lambda _, call: call.dtype in _HALF,
        "sdp_utils.cpp: check_dtypes_flash_attention",
    ),
    Condition(
        "flash",
        "have as many key heads as query heads, or a divisor of them with enable_gqa",
        lambda _, call: _heads_match(call, grouped=True),
        _HEADS,
    ),
    Condition("efficient", _FUSED, lambda _, call: call.fusable_layout, _LAYOUT),
    Condition("efficient", "have queries and keys", lambda _, call: call.queries > 0 and call.keys > 0, _LENGTHS),
    Condition(
        "efficient",
        "have head sizes that are multiples of 8 (4 in float32)",
        lambda platform, call: (
            call.head_dim % _efficient_alignment(platform, call) == 0
            and call.value_dim % _efficient_alignment(platform, call) == 0
        ),
        "sdp_utils.cpp: check_head_dim_size_mem_efficient",
    ),
    Condition(
        "efficient",
        "be on compute capability 5.0 to 12.1",
        lambda platform, _: (5, 0) <= platform.compute_capability <= (12, 1),
        "sdp_utils.cpp: check_mem_efficient_hardware_support",
    ),
    Condition(
        "efficient",
        "be in float16, float32 or, from compute capability 8.0, bfloat16",
        lambda platform, call: (
            call.dtype in ("float16", "float32") or (call.dtype == "bfloat16" and platform.compute_capability >= (8, 0))
        ),
        "sdp_utils.cpp: can_use_mem_efficient_attention",
    ),
    Condition(
        "efficient",
        "have as many key heads as query heads",
        lambda _, call: _heads_match(call, grouped=False),
        "sdp_utils.cpp: can_use_mem_efficient_attention (supports_grouped_query_attention is false)",
    ),
    Condition("cudnn", _FUSED, lambda _, call: call.fusable_layout, _LAYOUT),
    Condition("cudnn", "have queries and keys", lambda _, call: call.queries > 0 and call.keys > 0, _LENGTHS),
    Condition(
        "cudnn",
        "be in bfloat16 or float16",
        lambda _, call: call.dtype in _HALF,
        "sdp_utils.cpp: check_dtypes_low_precision",
    ),
    Condition(
        "cudnn",
        "have a mask of 2 or 4 dimensions that needs no gradient, if any",
        lambda _, call: call.mask is None or (len(call.mask_shape) in (2, 4) and not call.mask_requires_grad),
        "2.13 header sdp_utils_cpp.h: check_attn_mask_shape",
    ),
    Condition(
        "cudnn",
        "have key and value heads that divide the query's with enable_gqa, or as many",
        lambda _, call: _heads_match(call, grouped=True),
        _HEADS,
    ),
    Condition(
        "cudnn",
        "have at most 65535 batch entries and heads (from 2.13 on)",
        lambda platform, call: platform.torch < (2, 13) or max(call.batch, call.heads) <= GRID_LIMIT,
        "#180718 of 2026-04; 2.13 holds later changes, whether 2.12 has it is unverified. Before, cuDNN failed",
    ),
    Condition(
        "cudnn",
        "have head sizes that are multiples of 8, at most 128 (256 on compute capability 9.0 with cuDNN 9.10)",
        lambda platform, call: (
            max(call.head_dim, call.value_dim) <= _cudnn_head_limit(platform, call)
            and call.head_dim % 8 == 0
            and call.value_dim % 8 == 0
        ),
        "sdp_utils.cpp: check_cudnn_tensor_shapes",
    ),
    Condition(
        "cudnn",
        "have more than one key, and with dropout more than one query",
        lambda _, call: call.keys != 1 and not (call.queries == 1 and call.dropout > 0),
        "sdp_utils.cpp: check_cudnn_tensor_shapes",
    ),
    Condition(
        "cudnn",
        "have no dropout with cuDNN 9.11 to 9.13",
        lambda platform, call: call.dropout == 0 or not (9, 11, 0) < (platform.cudnn_version or (0, 0, 0)) < (9, 14, 0),
        "#163903",
    ),
)
"""Every check of the choosers that a dense call can fail; a kernel is taken if all of its own hold. Math takes all."""


def unmet(kernel: Kernel, platform: AttentionPlatform, call: AttentionCall) -> list[Condition]:
    """The conditions that keep this call from that kernel."""
    return [row for row in CONDITIONS if row.kernel == kernel and not row.holds(platform, call)]


def choose_kernel(platform: AttentionPlatform, call: AttentionCall) -> Kernel:
    """The kernel that PyTorch would run: the first in the platform's order whose conditions all hold."""
    return next(kernel for kernel in platform.order() if not unmet(kernel, platform, call))


_OPERATORS: dict[Kernel, str] = {
    "flash": "aten::_scaled_dot_product_flash_attention",
    "efficient": "aten::_scaled_dot_product_efficient_attention",
    "cudnn": "aten::_scaled_dot_product_cudnn_attention",
    "math": "aten::_scaled_dot_product_attention_math",
}

# Of an index into flash's float32 accumulator of dQ.
_ACCUMULATOR_LIMIT = 2**31


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _flash_head_dim(head_dim: int) -> int:
    """Head size of flash's buffers (flash_api.cpp head_size_rounded)."""
    return _round_up(head_dim, 32 if head_dim <= 128 else 64)


def launch_problems(kernel: Kernel, platform: AttentionPlatform, call: AttentionCall) -> list[Launch]:
    """Launches of this call, and of its backward pass if it asks for gradients, that break a limit of the kernel.

    Module is left empty for whoever knows it (``dataclasses.replace``).

    - flash: the grid is (blocks of queries, batch, heads) (flash_fwd_launch_template.h); y and z end at 65535. Failing
      on batch: #146704, Dao-AILab/flash-attention #1786; on heads: flash-attention #1812. With one query and grouped
      heads the groups take the queries' place, so heads are those of the key (flash_api.cpp). Its backward pass indexes
      the accumulator of dQ in 32 bits: batch x heads x queries (in 128s) x head size (in 32s) beyond 2**31 is an
      illegal access (PriorLabs/TabPFN #1184, there with the head size at least 32).
    - efficient: the grid is (blocks of queries, heads, batch) (2.13 header kernel_forward.h, kernel_backward.h).
      Batches beyond 65535 fail before 2.8 (#142228, #133976, facebookresearch/xformers #845 and #998), are cut into
      chunks from 2.8 on (#154029, #154663), and raise there with dropout. Heads beyond 65535 fail in every version
      (#142228; #177985 was open when read). Before 2.13 offsets into the mask and into the random numbers of dropout
      wrap at 2**32: rows beyond are wrong without an error (#162588, #187225; fixed in the 2.13 header).
    - cudnn: batches or heads beyond 65535 fail when they run, before 2.13 (#180718, #181235); 2.13 takes another one.
    - math: batched matrix products, no limit known.
    """
    operator = _OPERATORS[kernel]

    def problem(dimension: str, size: int, reference: str, limit: int = GRID_LIMIT, **changes: Any) -> Launch:
        launch = Launch(
            operator=operator,
            module="",
            phase="forward",
            kernel=kernel,
            shape=call.shape,
            dimension=dimension,
            size=size,
            limit=limit,
            effect="error",
            reference=reference,
        )
        return replace(launch, **changes)

    found: list[Launch] = []
    if kernel == "flash":
        swapped = call.queries == 1 and call.heads > call.kv_heads and call.dropout == 0
        heads = call.kv_heads if swapped else call.heads
        if call.batch > GRID_LIMIT:
            found.append(problem("grid.y (batch)", call.batch, "pytorch #146704, flash-attention #1786"))
        if heads > GRID_LIMIT:
            found.append(problem("grid.z (heads)", heads, "flash-attention #1812"))
        accumulator = call.batch * call.heads * _round_up(call.queries, 128) * _flash_head_dim(call.head_dim)
        if call.requires_grad and accumulator > _ACCUMULATOR_LIMIT:
            found.append(
                problem(
                    "elements of dQ's accumulator",
                    accumulator,
                    "TabPFN #1184",
                    limit=_ACCUMULATOR_LIMIT,
                    operator=f"{operator}_backward",
                    phase="backward",
                )
            )
    elif kernel == "efficient":
        if call.batch > GRID_LIMIT and platform.torch < (2, 8):
            found.append(problem("grid.z (batch)", call.batch, "pytorch #142228, #146704, #133976, xformers #845"))
        elif call.batch > GRID_LIMIT and call.dropout > 0:
            found.append(problem("batch with dropout", call.batch, "pytorch #154029"))
        if call.heads > GRID_LIMIT:
            found.append(problem("grid.y (heads)", call.heads, "pytorch #142228, #177985"))
        # A mask with one row for all queries has stride 0 there, and never wraps.
        masked = call.mask is not None and len(call.mask_shape) > 1 and call.mask_shape[-2] > 1
        if platform.torch < (2, 13) and (masked or call.dropout > 0) and call.queries * call.keys > 2**32:
            found.append(
                problem(
                    "32-bit offset into the mask" if masked else "32-bit offset of the random numbers",
                    call.queries * call.keys,
                    "pytorch #162588, #187225",
                    limit=2**32,
                    effect="silent",
                )
            )
    elif kernel == "cudnn":
        if call.batch > GRID_LIMIT:
            found.append(problem("batch", call.batch, "pytorch #180718, #181235"))
        if call.heads > GRID_LIMIT:
            found.append(problem("heads", call.heads, "pytorch #180718"))
    return found


def largest_passing_batch(platform: AttentionPlatform, call: AttentionCall, samples: int) -> int:
    """The most samples, up to those given, for which this call breaks no limit; 0 if even one does.

    The call's batch is laid out by its samples alike: Molmo's adapter has crops x 144 entries a sample. The kernel is
    chosen anew for each number, as a smaller batch may get another one.
    """
    if samples < 1:
        raise ValueError(f"[dry_run] samples must be at least 1, got {samples}")
    per_sample = -(-call.batch // samples)

    def fails(count: int) -> bool:
        smaller = replace(call, batch=count * per_sample, mask_shape=_mask_of(call, count * per_sample))
        return bool(launch_problems(choose_kernel(platform, smaller), platform, smaller))

    return bisect_left(range(1, samples + 1), True, key=fails)


def _mask_of(call: AttentionCall, batch: int) -> tuple[int, ...]:
    """The mask's shape for another batch."""
    if len(call.mask_shape) < 4 or call.mask_shape[0] == 1:
        return call.mask_shape
    return (batch, *call.mask_shape[1:])


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
        dtype=_dtype_name(query),
    )


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _chunk(platform: AttentionPlatform, call: AttentionCall) -> int:
    """Batch entries of a chunk that the efficient kernel copies into its outputs; 0 where it makes none."""
    return GRID_LIMIT if call.batch > GRID_LIMIT and platform.torch >= (2, 8) else 0


def _efficient_forward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[:3])
    batch = _chunk(platform, call)
    outputs = batch * call.heads * call.queries * call.value_dim * call.element_size
    # Kernels for sizes up to 64 and 128 keep the output in registers; the one for larger sizes accumulates in memory
    # unless the output is float32 itself (kernel_forward.h kNeedsOutputAccumulatorBuffer, cutlassF.h).
    accumulated = call.dtype in _HALF and max(call.head_dim, call.value_dim) > 128
    rows = (batch or call.batch) * call.heads * call.queries
    return outputs + (rows * call.value_dim * 4 if accumulated else 0)


def _efficient_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[1:4])
    batch = _chunk(platform, call)
    gradients = batch * call.element_size * (call.heads * call.queries * call.head_dim)
    gradients += batch * call.element_size * call.kv_heads * call.keys * (call.head_dim + call.value_dim)
    call = replace(call, batch=batch or call.batch)
    rows = call.batch * call.heads * call.queries
    half = call.dtype in _HALF
    # delta; outside the half kernels it is summed from a float32 product of output and gradient.
    delta = rows * 4 + (0 if half else rows * call.value_dim * 4)
    return gradients + delta + _efficient_workspace(platform, call)


def _efficient_workspace(platform: AttentionPlatform, call: AttentionCall) -> int:
    """kernel_backward.h workspace_size for the kernel that cutlassB.h lists first for the size."""
    half = call.dtype in _HALF
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
        floats += splits * columns * (_round_up(call.head_dim, rows) + _round_up(call.value_dim, rows))
    return groups * _round_up(floats, 4) * 4


def _flash_backward(platform: AttentionPlatform, args: Sequence[Any]) -> int:
    call = _call_of(*args[1:4])
    rows = call.batch * call.heads * _round_up(call.queries, 128)
    num_bytes = rows * 4 + rows * _flash_head_dim(call.head_dim) * 4
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
        if index is not None and _dtype_name(index) == "bool":
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


def mask_bytes(call: AttentionCall) -> tuple[int, int]:
    """Bytes that a mask adds (at its peak, during the kernel) on the fused path, beside the mask itself.

    A boolean mask is inverted (1 byte an element), turned into the query's type (2 in half types) and, where a row is
    no multiple of 8 elements, copied into padded rows for the efficient kernel (2 more): with the mask itself 5 or 6
    bytes an element for a moment, 1 + 2 during the kernel (attention.cpp convert_boolean_attn_mask, preprocess_mask).

    >>> mask_bytes(AttentionCall(batch=1, heads=8, queries=4100, keys=4100, head_dim=64, mask="bool"))
    (67272800, 33652800)
    """
    if call.mask is None:
        return 0, 0
    elements = math.prod(call.mask_shape)
    converted = elements * call.element_size if call.mask == "bool" else 0
    # Every stride of a contiguous mask is a multiple of its row.
    is_padded = call.mask_shape[-1] % 8 != 0
    padded = elements // call.mask_shape[-1] * _round_up(call.mask_shape[-1], 8) * call.element_size if is_padded else 0
    return max(elements + converted, converted + padded) if converted else padded, padded or converted


OnCall: TypeAlias = Callable[[Kernel, AttentionCall], None]


@contextmanager
def patched_sdpa(platform: AttentionPlatform, *, on_call: OnCall) -> Iterator[None]:
    """Makes ``torch.nn.functional.scaled_dot_product_attention`` act on fake CPU tensors as on CUDA.

    Each call chooses a kernel, tells ``on_call(kernel, call)``, and calls that kernel's own operator. The
    attribute is replaced, not the function overridden: function modes are off while ``Tensor.backward`` runs, and a
    checkpoint's recomputation would take another kernel. Calls without fake tensors, or that PyTorch refuses, go to the
    original. Code that imported the function by name beforehand is not reached.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.nn import functional

    original = functional.scaled_dot_product_attention

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        tensors = (query, key, value)
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) or not _is_valid(*tensors, attn_mask):
            output: Tensor = original(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
            return output
        requires_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        call = _describe(query, key, value, attn_mask, dropout_p, is_causal, requires_grad, enable_gqa)
        kernel = choose_kernel(platform, call)
        on_call(kernel, call)
        return _run(kernel, call, query, key, value, attn_mask, scale)

    functional.scaled_dot_product_attention = scaled_dot_product_attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _is_valid(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """attention.cpp validate_sdpa_input, so that its errors come from PyTorch."""
    return (
        query.dtype == key.dtype == value.dtype
        and min(query.dim(), key.dim(), value.dim()) >= 2
        and (mask is None or _dtype_name(mask) in ("bool", "float32", _dtype_name(query)))
    )


def _describe(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    requires_grad: bool,
    enable_gqa: bool,
) -> AttentionCall:
    def heads_of(tensor: Tensor) -> int:
        return tensor.shape[-3] if tensor.dim() > 2 else 1

    inputs = (query, key, value)
    fusable = all(tensor.dim() == 4 for tensor in inputs)
    fusable = fusable and len({tensor.shape[0] for tensor in inputs}) == 1 and heads_of(key) == heads_of(value)
    fusable = fusable and query.shape[-1] == key.shape[-1]
    fusable = fusable and (query.shape[-1] == 1 or all(tensor.stride(-1) == 1 for tensor in inputs))
    fusable = fusable and (mask is None or mask.stride(-1) == 1)
    return AttentionCall(
        batch=math.prod(query.shape[:-3]),
        heads=heads_of(query),
        queries=query.shape[-2],
        keys=key.shape[-2],
        head_dim=query.shape[-1],
        kv_heads=heads_of(key),
        value_dim=value.shape[-1],
        dtype=_dtype_name(query),
        mask=None if mask is None else "bool" if _dtype_name(mask) == "bool" else "float",
        mask_shape=() if mask is None else tuple(mask.shape),
        mask_requires_grad=mask is not None and mask.requires_grad,
        causal=causal,
        dropout=dropout,
        requires_grad=requires_grad,
        enable_gqa=enable_gqa,
        fusable_layout=fusable,
    )


def _run(
    kernel: Kernel,
    call: AttentionCall,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
) -> Tensor:
    """attention.cpp scaled_dot_product_attention after the choice, operator by operator."""
    import torch
    from torch.nn import functional

    aten = torch.ops.aten
    output: Tensor
    if kernel == "flash":
        # Heads are padded to a multiple of 8; the scale stays that of the real size.
        padding = -call.head_dim % 8
        scale = 1 / math.sqrt(call.head_dim) if scale is None else scale
        if padding:
            query, key, value = (functional.pad(tensor, (0, padding)) for tensor in (query, key, value))
        output = aten._scaled_dot_product_flash_attention(
            query, key, value, call.dropout, call.causal, False, scale=scale
        )[0]
        return output[..., : call.head_dim] if padding else output
    if mask is not None and call.mask == "bool":
        lowest = -65504.0 if kernel == "cudnn" else -math.inf
        mask = torch.where(mask.logical_not(), lowest, torch.scalar_tensor(0.0, dtype=query.dtype))
    if kernel == "efficient":
        if mask is not None:
            mask = _aligned(mask).expand(call.batch, call.heads, call.queries, call.keys)
        output = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, call.requires_grad, call.dropout, call.causal, scale=scale
        )[0]
    elif kernel == "cudnn":
        output = aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, call.requires_grad, call.dropout, call.causal, False, scale=scale
        )[0]
    else:
        output = aten._scaled_dot_product_attention_math(
            query, key, value, mask, call.dropout, call.causal, None, scale=scale, enable_gqa=call.enable_gqa
        )[0]
    return output


def _aligned(mask: Tensor) -> Tensor:
    """attention.cpp preprocess_mask: rows padded to a multiple of 8 unless every stride is one already."""
    from torch.nn import functional

    if all(stride % 8 == 0 for stride in mask.stride()[:-1]) and mask.stride(-1) == 1:
        return mask
    keys = mask.shape[-1]
    return functional.pad(mask, (0, 8 - keys % 8))[..., :keys]
