"""The attention kernel that CUDA would take, and the launches that break its limits.

PyTorch's ``scaled_dot_product_attention`` picks one of four kernels from shapes, types and GPU. Here the choice is made
in Python, from PyTorch's own rules, for a GPU and a PyTorch that need not be there. ``_cuda`` calls the chosen kernel's
operator on fake tensors; ``_temporaries`` has the memory that it uses inside.

Sources. "2.13 header" is a file in the installed wheel of PyTorch 2.13.0 (``sdp_utils_cpp.h``, ``Context.h``,
``mem_eff_attention/*.h``), read there. ``sdp_utils.cpp``, ``flash_api.cpp`` and ``attention_backward.cu`` are not in a
wheel; they were read in public copies of 2025 and 2026 (under ``aten/src/ATen/native/transformers/cuda``). ``#n`` is an
issue or pull request of pytorch/pytorch. Nothing here was measured on a GPU.

Not modelled: switches that the user may set (``sdpa_kernel``, ``TORCH_CUDNN_SDPA_DEPRIORITIZED``, deterministic
algorithms), nested tensors, ROCm, FlashAttention 3, and dropout rates that newer cuDNN choosers round to 1/16.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from maxcrops.planning.dryrun._launch import Launch

Kernel: TypeAlias = Literal["flash", "efficient", "cudnn", "math"]

GRID_LIMIT = 65535
"""Largest gridDim.y and gridDim.z of CUDA; gridDim.x goes to 2**31 - 1."""

HALF = ("bfloat16", "float16")
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
        return 2 if self.dtype in HALF else 8 if self.dtype == "float64" else 4


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
    half = call.dtype in HALF
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
        lambda _, call: call.dtype in HALF,
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
        lambda _, call: call.dtype in HALF,
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


def dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def flash_head_dim(head_dim: int) -> int:
    """Head size of flash's buffers (flash_api.cpp head_size_rounded)."""
    return round_up(head_dim, 32 if head_dim <= 128 else 64)


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
        accumulator = call.batch * call.heads * round_up(call.queries, 128) * flash_head_dim(call.head_dim)
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
