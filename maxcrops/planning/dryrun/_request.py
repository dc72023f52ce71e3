"""What a dry run is asked to do: plain data, which crosses to the child process and keys the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from maxcrops.specs import Spec

Mode: TypeAlias = Literal["prefill", "generate", "train"]
Trainable: TypeAlias = Literal["all", "frozen_vision", "connector"]
Optimizer: TypeAlias = Literal["adamw_foreach", "adamw_fused", "none"]
Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
Attention: TypeAlias = Literal["sdpa", "eager", "flash_attention_2"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One size of the problem. Every sample of the batch has the same images, which makes the worst batch."""

    batch_size: int
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the images of each sample, pixels."""
    max_crops: int | None = None
    """As in a call of ``layout``."""
    text_tokens: int = 512
    """Of each sample, beside its image tokens."""
    new_tokens: int = 1
    """Decoded one by one after the prompt, in mode "generate"."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A model, how it is run, and at which point."""

    config: Mapping[str, Any]
    """The model's config.json as a dict; ``model_type`` says which class."""
    spec: Spec
    """How its images are cut."""
    point: Point
    mode: Mode = "prefill"
    dtype: Dtype = "bfloat16"
    attention: Attention = "sdpa"
    trainable: Trainable = "all"
    gradient_checkpointing: bool = False
    optimizer: Optimizer = "adamw_foreach"
    compute_capability: tuple[int, int] = (9, 0)
    torch_version: str = "2.13"
    """Whose choice of attention kernels is modelled."""
    cudnn_version: tuple[int, int, int] | None = None
    """None: no cuDNN attention."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For experiments; part of the cache's key."""
