"""Lets torchvision import beside a torch for which its compiled operators were not built.

transformers' image processors need torchvision's Python code only; its import asks for two operator schemas.
"""

from __future__ import annotations

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def declare_missing() -> None:
    """Call before the first import of torchvision, or of a transformers vision module."""
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, ImportError):
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _keep.append(library)


_keep: list[torch.library.Library] = []  # a library's definitions go with it
