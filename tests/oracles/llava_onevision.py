"""LlavaOnevisionImageProcessor's cut and LlavaOnevisionProcessor's number of features, of one image a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.models.llava_onevision.image_processing_llava_onevision import (
    LlavaOnevisionImageProcessor,
    select_best_resolution,
)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

WHOLE_CUT = 10
"""Every so many-th image is cut with all of the real code, the others with its search."""


class _ImageProcessor(LlavaOnevisionImageProcessor, CheapResize):
    """Without pixels; notes the canvas."""

    def _pad_for_patching(self, image: torch.Tensor, target_resolution: tuple[int, int]) -> torch.Tensor:
        self.canvas = super()._pad_for_patching(image, target_resolution)
        return self.canvas


class Oracle:
    cheap_class: Any = _ImageProcessor
    image_processor_class: Any = LlavaOnevisionImageProcessor

    def __init__(
        self,
        *,
        size: int,
        pinpoints: list[tuple[int, int]],
        num_image_tokens: int = 729,
        vision_aspect_ratio: str = "anyres_max_9",
    ) -> None:
        self.size = size
        self.pinpoints = [list(entry) for entry in pinpoints]
        self.settings: dict[str, Any] = {
            "size": {"height": size, "width": size},
            "image_grid_pinpoints": self.pinpoints,
        }
        self.image_processor = self.cheap_class(**self.settings)
        self.processor = LlavaOnevisionProcessor(
            self.image_processor,
            make_tokenizer([], image_token="<image>", video_token="<video>"),
            LlavaOnevisionVideoProcessor(),
            num_image_tokens=num_image_tokens,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=vision_aspect_ratio,
        )

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the real _get_image_patches."""
        image = empty_image(height, width, 1)
        side = (self.size, self.size)
        crops = self.image_processor._get_image_patches(image, self.pinpoints, side, self.size, None)
        rows, cols = (len(range(0, extent, self.size)) for extent in self.image_processor.canvas.shape[-2:])
        assert rows * cols == len(crops) - 1
        return rows, cols, len(crops)

    def _search(self, height: int, width: int) -> tuple[int, int, int]:
        canvas = select_best_resolution((height, width), self.pinpoints)
        rows, cols = (len(range(0, extent, self.size)) for extent in canvas)
        return rows, cols, rows * cols + 1

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        counted = self.processor._get_num_multimodal_tokens(sizes.tolist())
        rows = []
        for i, (size, tokens) in enumerate(zip(sizes.tolist(), counted.num_image_tokens, strict=True)):
            found = self._search(*size)
            assert i % WHOLE_CUT or found == self._cut(*size)
            rows.append((*found, tokens))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image; the text is tokenised."""
        image_processor = self.image_processor_class(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        text = self.processor.replace_image_token(out, 0)
        return out["pixel_values"].shape[1], count(self.processor.tokenizer, text)
