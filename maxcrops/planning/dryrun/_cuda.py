"""Has a run on fake CPU tensors take the attention kernels, and the memory inside of kernels, of a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from maxcrops.planning.dryrun._attention import AttentionCall, AttentionPlatform, Kernel, choose_kernel, dtype_name
from maxcrops.planning.dryrun._molmo import DISABLED_KERNELS
from maxcrops.planning.dryrun._request import RunRequest
from maxcrops.planning.dryrun._temporaries import cublas_workspace_bytes, extra_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from maxcrops.planning.dryrun._recorder import Recorder

FLASH = "maxcrops_flash_attention_2"
"""What the stand-in for flash_attention_2 is called in transformers: a name with "flash" in it takes that way."""

_flash_calls: list[Callable[[AttentionCall], None]] = []  # whom the stand-in tells


def platform_of(request: RunRequest) -> AttentionPlatform:
    """Where a request's attention runs."""
    disabled = DISABLED_KERNELS if request.config.get("model_type") == "molmo" else ()
    return AttentionPlatform(request.compute_capability, request.torch_version, request.cudnn_version, disabled)


def workspaces(platform: AttentionPlatform) -> Callable[[Any, Sequence[Any], Mapping[str, Any], Any], int]:
    """What operators take on the device beside their results, for a Recorder."""

    def of_operator(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
        return extra_bytes(func._schema.name, platform, args)

    return of_operator


@contextmanager
def as_on_cuda(platform: AttentionPlatform, recorder: Recorder) -> Iterator[None]:
    """Attention in here chooses its kernel as the platform would, and the recorder is told."""
    on_flash = partial(recorder.attend, "flash")
    recorder.reserve(cublas_workspace_bytes(platform), "cuBLAS workspace")
    _flash_calls.append(on_flash)
    try:
        with patched_sdpa(platform, on_call=recorder.attend):
            yield
    finally:
        _flash_calls.remove(on_flash)


def register_flash() -> None:
    """Makes the stand-in known to transformers, with the masks of flash_attention_2."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    AttentionInterface.register(FLASH, _flash_attention)
    AttentionMaskInterface.register(FLASH, flash_attention_mask)


def _flash_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """flash_attn_func by PyTorch's copy of the kernel: the same output, log-sum-exp and saved tensors.

    Queries, keys and values are [batch, heads, tokens, head size]; the output is [batch, tokens, heads, head size].
    There is no padding in a dry run, so the variant for packed sequences is not needed.
    """
    import torch

    causal = module.is_causal if is_causal is None else is_causal
    causal = causal and query.shape[2] > 1  # one query sees all keys
    call = AttentionCall(
        batch=query.shape[0],
        heads=query.shape[1],
        queries=query.shape[2],
        keys=key.shape[2],
        head_dim=query.shape[3],
        kv_heads=key.shape[1],
        dtype=dtype_name(query),
        causal=causal,
        dropout=dropout,
        requires_grad=torch.is_grad_enabled() and query.requires_grad,
        enable_gqa=True,
    )
    for tell in _flash_calls:
        tell(call)
    attend = torch.ops.aten._scaled_dot_product_flash_attention.default
    output = attend(query, key, value, dropout, causal, False, scale=scaling)[0]
    return output.transpose(1, 2), None


# -- scaled_dot_product_attention ----------------------------------------------------------------------------------


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
        and (mask is None or dtype_name(mask) in ("bool", "float32", dtype_name(query)))
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
        dtype=dtype_name(query),
        mask=None if mask is None else "bool" if dtype_name(mask) == "bool" else "float",
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
