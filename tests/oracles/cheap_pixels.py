"""Images without pixels."""

from __future__ import annotations

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict


def empty_image(height: int, width: int, *leading: int) -> torch.Tensor:
    return torch.empty((*leading, height, width), device="meta", dtype=torch.uint8)


class CheapResize(TorchvisionBackend):
    """Stands behind a processor's class among the bases: replaces the pixel resize, none of the family's code."""

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert size.height
        assert size.width
        return empty_image(size.height, size.width, *image.shape[:-2])
