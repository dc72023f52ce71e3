"""What a dry run observes: every allocation with its life, every launch, and the arithmetic by part of the model.

Plain NumPy data, so that replaying, fitting and planning need no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Category: TypeAlias = Literal["weights", "gradients", "optimizer", "kv_cache", "activations", "temporaries"]
CATEGORIES: tuple[Category, ...] = ("weights", "gradients", "optimizer", "kv_cache", "activations", "temporaries")
"""``activations`` are what the forward pass keeps (for later layers or for the backward pass), ``temporaries`` what one
operator or one optimizer step uses and gives back."""

Phase: TypeAlias = Literal["load", "forward", "backward", "optimizer", "decode"]
PHASES: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer", "decode")


@dataclass(frozen=True)
class Launch:
    """A kernel launch whose grid breaks, or may break, a limit of CUDA."""

    operator: str
    """As PyTorch names it."""
    module: str
    """Path of the module that called it."""
    phase: Phase
    kernel: str
    """Which kernel it is: flash, efficient, cudnn, math."""
    shape: tuple[int, ...]
    """(batch, heads, queries, keys, head size) of an attention call."""
    dimension: str
    """The grid dimension, and what is laid along it: "grid.z (batch)"."""
    size: int
    """What it would be."""
    limit: int
    """What CUDA allows."""
    effect: Literal["error", "silent"]
    """An error at the launch ("invalid configuration argument"), or wrong results without one."""
    reference: str
    """Where this was reported."""
    largest_batch: int = 0
    """Samples of which this call passes; 0 if not even one does."""

    @property
    def remedy(self) -> str:
        """What to do, in words."""
        along = "heads" if "heads" in self.dimension else "queries" if "offset" in self.dimension else "batch"
        split = f"split this call along its {along}"
        if self.largest_batch == 0:
            return f"not even one sample passes: {split}"
        return f"a batch of {self.largest_batch} passes; for more, {split}"


@dataclass(frozen=True)
class EventLog:
    """One run's allocations in order. ``N`` allocations make at most ``2 N`` events.

    An event is an allocation or a free; those that live to the end have no free. Bytes are what the tensors ask for:
    the allocator's rounding is left to whoever replays them.
    """

    operators: tuple[str, ...]
    modules: tuple[str, ...]
    event_allocation: npt.NDArray[np.int32]
    """[events]: index of the allocation."""
    event_is_free: npt.NDArray[np.bool_]
    """[events]"""
    num_bytes: npt.NDArray[np.int64]
    """[N]"""
    operator: npt.NDArray[np.int32]
    """[N]: index into operators, of the one that allocated."""
    module: npt.NDArray[np.int32]
    """[N]: index into modules, of the one that was running."""
    phase: npt.NDArray[np.int8]
    """[N]: index into PHASES."""
    category: npt.NDArray[np.int8]
    """[N]: index into CATEGORIES."""
    launches: tuple[Launch, ...] = ()
    """Those that break a limit."""
    attention_kernels: tuple[str, ...] = ()
    """Kernels that the attention calls took, without repetition, in order."""
    flops: Mapping[str, int] = field(default_factory=dict)
    """By part of the model ("vision", "connector", "language_model", "optimizer"), forward and backward together."""
    traffic_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that operators read and wrote, by part."""
    num_operators: int = 0
    """Kernels launched, about: operators that the device would run."""

    def signature(self) -> str:
        """Equal for two logs whose events correspond one to one: same operators, modules, lives, in the same order."""
        digest = hashlib.sha256()
        for names in (self.operators, self.modules):
            digest.update("\0".join(names).encode())
        for array in (self.event_allocation, self.event_is_free, self.operator, self.module, self.phase, self.category):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def live_bytes(self, rounding: int = 512) -> npt.NDArray[np.int64]:
        """[events]: bytes in use after each event, every allocation rounded up to a multiple of `rounding`."""
        rounded = -(-self.num_bytes // rounding) * rounding
        deltas = rounded[self.event_allocation]
        return np.cumsum(np.where(self.event_is_free, -deltas, deltas))
