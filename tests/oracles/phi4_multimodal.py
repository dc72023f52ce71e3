"""Phi4MultimodalImageProcessor's whole _preprocess, its token count among it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.image_utils import SizeDict
from transformers.models.phi4_multimodal import image_processing_phi4_multimodal as upstream

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image


class _Torch:
    """torch for the module: masks are summed, so they keep values where the image has none; joining is cheap."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def ones(self, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return torch.ones(*args, **kwargs)

    def cat(self, tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        first = tensors[0]
        if not first.is_meta:
            return torch.cat(tensors, dim=dim)
        assert dim == 0
        return first.new_empty((sum(len(tensor) for tensor in tensors), *first.shape[1:]))

    def stack(self, tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        first = tensors[0]
        if not first.is_meta:
            return torch.stack(tensors, dim=dim)
        assert dim == 0
        return first.new_empty((len(tensors), *first.shape))


class _Torchvision:
    """torchvision's functions that the module calls, without pixels."""

    def resize(self, image: torch.Tensor, size: list[int], *args: Any, **kwargs: Any) -> torch.Tensor:
        if not image.is_meta:
            return _torchvision.resize(image, size, *args, **kwargs)
        return image.new_empty((*image.shape[:-2], *size))

    def pad(self, image: torch.Tensor, padding: list[int], *args: Any, **kwargs: Any) -> torch.Tensor:
        if not image.is_meta:
            return _torchvision.pad(image, padding, *args, **kwargs)
        left, top, right, bottom = padding
        height, width = image.shape[-2:]
        return image.new_empty((*image.shape[:-2], top + height + bottom, left + width + right))


class _MaxNum(int):
    """dynamic_hd, and dynamic_hd + 1 as the end of a range."""

    def __add__(self, other: int) -> _MaxNum:
        return _MaxNum(int(self) + other)


def _range(start: int, stop: int) -> range:
    """Of the loop over numbers of crops only the last round, as its pairs are those of all: 10 times as quick."""
    return range(int(stop) - 1 if isinstance(stop, _MaxNum) else start, int(stop))


_torchvision = upstream.tvF
upstream.tvF = _Torchvision()
upstream.torch = _Torch()
upstream.range = _range  # type: ignore[attr-defined]


class _ImageProcessor(upstream.Phi4MultimodalImageProcessor, CheapResize):
    def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return images

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        return CheapResize.resize(self, image, size)


class Oracle:
    def __init__(self, *, dynamic_hd: int = 36, size: int = 448) -> None:
        self.size = size
        self.settings: dict[str, Any] = {"dynamic_hd": dynamic_hd, "size": {"height": size, "width": size}}
        self.image_processor = _ImageProcessor(**self.settings)

    def _cut(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """(rows, cols, crops, tokens); None where the processor raises."""
        processor = self.image_processor
        try:
            out = processor._preprocess(
                [empty_image(height, width, 3)],
                do_resize=True,
                size=SizeDict(height=self.size, width=self.size),
                resample=processor.resample,
                do_rescale=True,
                rescale_factor=1 / 255,
                do_normalize=True,
                image_mean=processor.image_mean,
                image_std=processor.image_std,
                patch_size=processor.patch_size,
                dynamic_hd=_MaxNum(self.settings["dynamic_hd"]),
                return_tensors=None,
            )
        except ValueError as error:
            if "the aspect ratio is very extreme" not in str(error):
                raise
            return None
        [[canvas_height, canvas_width]] = out["image_sizes"].tolist()
        crops = out["image_pixel_values"].shape[1]
        return canvas_height // self.size, canvas_width // self.size, crops, out["num_img_tokens"][0]

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Where a side of the scaled image is less than 10 px."""
        return np.array([self._cut(*size) is None for size in sizes.tolist()], dtype=bool)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        return answers([self._cut(*size) or (-1, -1, -1, -1) for size in sizes.tolist()])

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = upstream.Phi4MultimodalImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        return out["image_pixel_values"].shape[1], int(out["num_img_tokens"][0])
