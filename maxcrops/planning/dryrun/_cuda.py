"""Has a run on fake CPU tensors take the attention kernels, and the memory inside of kernels, of a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from maxcrops.planning.dryrun._attention import (
    AttentionCall,
    AttentionPlatform,
    cublas_workspace_bytes,
    extra_bytes,
    patched_sdpa,
)
from maxcrops.planning.dryrun._molmo import DISABLED_KERNELS
from maxcrops.planning.dryrun._request import RunRequest

if TYPE_CHECKING:
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
        dtype=str(query.dtype).removeprefix("torch."),
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
