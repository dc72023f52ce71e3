"""Lets torchvision import beside a torch for which its compiled operators were not built.

The image processors of transformers need torchvision's Python code only; its import asks for two operator schemas.
Benchmarks, tests and the dry run's own process call this. Nothing else does: an operator that is declared and not there
would fail a user's own detection model at a strange place.
"""

from __future__ import annotations

import importlib
from typing import Any

_kept: list[Any] = []  # a library's definitions go with it


def declare_missing() -> None:
    """Declares nms and qnms if torchvision cannot be imported without; to be called before that import.

    Raises:
        ImportError: torch or torchvision is not installed.
        RuntimeError: torchvision fails for another reason.
    """
    torch = importlib.import_module("torch")
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


def has_declared() -> bool:
    """Whether operators were missing and are declared now."""
    return bool(_kept)
