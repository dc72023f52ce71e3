"""A kernel launch that CUDA would refuse, or get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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
