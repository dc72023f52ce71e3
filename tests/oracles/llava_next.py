"""LlavaNextImageProcessor's cut and LlavaNextProcessor's number of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer


class _ImageProcessor(LlavaNextImageProcessor, CheapResize):
    """Without pixels; notes the canvas."""

    def _pad_for_patching(self, image: torch.Tensor, target_resolution: tuple[int, int]) -> torch.Tensor:
        self.canvas = super()._pad_for_patching(image, target_resolution)
        return self.canvas


class Oracle:
    def __init__(
        self, *, size: int, pinpoints: list[tuple[int, int]], strategy: str = "full", additional_tokens: int = 0
    ) -> None:
        self.size = size
        self.pinpoints = [list(entry) for entry in pinpoints]
        self.settings: dict[str, Any] = {
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "image_grid_pinpoints": self.pinpoints,
        }
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = LlavaNextProcessor(
            self.image_processor,
            make_tokenizer([], image_token="<image>"),
            patch_size=14,
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=additional_tokens,
        )

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the real _get_image_patches."""
        image = empty_image(height, width, 1)
        side = (self.size, self.size)
        crops = self.image_processor._get_image_patches(image, self.pinpoints, side, self.size, None)
        local = [tuple(crop.shape[-2:]) for crop in crops[1:]]
        rows, cols = (len(range(0, extent, self.size)) for extent in self.image_processor.canvas.shape[-2:])
        assert sum(h * w for h, w in local) == self.image_processor.canvas[0].numel()
        assert rows * cols == len(local)
        return rows, cols, len(crops)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        counted = self.processor._get_num_multimodal_tokens(sizes.tolist())
        rows = [
            (*self._cut(*size), tokens) for size, tokens in zip(sizes.tolist(), counted.num_image_tokens, strict=True)
        ]
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image; the text is tokenised."""
        image_processor = LlavaNextImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        text = self.processor.replace_image_token(out, 0)
        return out["pixel_values"].shape[1], count(self.processor.tokenizer, text)
