"""Lets torchvision import beside a torch for which its compiled operators were not built.

The processors need torchvision's Python code only; its import asks for two operator schemas.
"""

from __future__ import annotations

import torch

_kept: list[torch.library.Library] = []  # definitions go with their library


def declare_missing() -> None:
    """Declares nms and qnms if torchvision cannot be imported without; to be called before that import.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
