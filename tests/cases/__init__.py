"""The same settings on both sides: ours, and those of the processor that is the oracle. One module a family."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sizes import mixed_sizes

import maxcrops as mc

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    name: str
    oracle: str
    """The module tests/oracles/<oracle>.py."""
    spec: mc.Spec
    upstream: dict[str, Any] = field(default_factory=dict)
    """Arguments of its Oracle."""
    max_crops: int | None = None
    window: int = 0
    """Pixels; the crop size where 0."""
    margin: int = 0

    def sizes(self, count: int) -> Sizes:
        return mixed_sizes(self.window or self.spec.crop_size, self.margin, count, seed=sum(map(ord, self.name)))


def all_cases() -> list[Case]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [case for module in modules for case in module.CASES]
