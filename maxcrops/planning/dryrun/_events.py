"""What a dry run observes: every allocation with its life, attention calls, and the arithmetic by part of the model.

Plain NumPy data, so that replaying, fitting and planning need no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maxcrops.planning.dryrun._attention import (
    AttentionCall,
    AttentionPlatform,
    Kernel,
    largest_passing_batch,
    launch_problems,
)
from maxcrops.planning.dryrun._launch import Launch, Phase

Category: TypeAlias = Literal["weights", "gradients", "optimizer", "kv_cache", "activations", "temporaries"]
CATEGORIES: tuple[Category, ...] = ("weights", "gradients", "optimizer", "kv_cache", "activations", "temporaries")
"""``activations`` are what the forward pass keeps (for later layers or for the backward pass), ``temporaries`` what one
operator or one optimizer step uses and gives back."""


@dataclass(frozen=True)
class AttentionUse:
    """A call of attention, and the kernel that it took. Calls that are alike are one."""

    module: str
    """Path of the first module that made it."""
    phase: Phase
    kernel: Kernel
    call: AttentionCall


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
    attention: tuple[AttentionUse, ...] = ()
    """Every kind of attention call, in order."""
    platform: AttentionPlatform | None = None
    """Where it would run; None: on the CPU."""
    batch_size: int = 1
    flops: Mapping[str, int] = field(default_factory=dict)
    """By part of the model ("vision", "connector", "language_model", "optimizer"), forward and backward together."""
    traffic_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that operators read and wrote, by part."""
    num_operators: int = 0
    """Kernels launched, about: operators that the device would run."""

    @property
    def attention_kernels(self) -> tuple[Kernel, ...]:
        """Kernels that the attention calls took, without repetition, in order."""
        return tuple(dict.fromkeys(use.kernel for use in self.attention))

    @property
    def launches(self) -> tuple[Launch, ...]:
        """Those that break a limit."""
        if self.platform is None:
            return ()
        return tuple(
            replace(
                launch,
                module=use.module,
                phase=use.phase if launch.phase == "forward" else launch.phase,
                largest_batch=largest_passing_batch(self.platform, use.call, self.batch_size),
            )
            for use in self.attention
            for launch in launch_problems(use.kernel, self.platform, use.call)
        )

    def signature(self) -> str:
        """Equal for two logs whose events correspond one to one: operators, modules, lives and kernels, in order."""
        digest = hashlib.sha256()
        for names in (self.operators, self.modules):
            digest.update("\0".join(names).encode())
        for array in (self.event_allocation, self.event_is_free, self.operator, self.module, self.phase, self.category):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr([(use.module, use.phase, use.kernel) for use in self.attention]).encode())
        return digest.hexdigest()

    def live_bytes(self, rounding: int = 512) -> npt.NDArray[np.int64]:
        """[events]: bytes in use after each event, every allocation rounded up to a multiple of `rounding`."""
        rounded = -(-self.num_bytes // rounding) * rounding
        deltas = rounded[self.event_allocation]
        return np.cumsum(np.where(self.event_is_free, -deltas, deltas))
