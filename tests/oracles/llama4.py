"""Llama4ImageProcessor whole, and Llama4Processor's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.llama4.image_processing_llama4 import (
    Llama4ImageProcessor,
    find_supported_resolutions,
    get_best_fit,
)
from transformers.models.llama4.processing_llama4 import Llama4Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize
from oracles.tokenizers import count, make_tokenizer

_SPECIALS = [
    "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
]  # fmt: skip


class _ImageProcessor(Llama4ImageProcessor, CheapResize):
    """Without pixels; takes an image as it is, without a copy."""

    def process_image(self, image: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return image


class Oracle:
    def __init__(
        self,
        *,
        size: int = 336,
        max_patches: int = 16,
        resize_to_max_canvas: bool = False,
        patch_size: int = 14,
        pixel_shuffle_ratio: float = 0.5,
    ) -> None:
        self.size = size
        self.settings = {
            "size": {"height": size, "width": size},
            "max_patches": max_patches,
            "resize_to_max_canvas": resize_to_max_canvas,
        }
        self.per_crop = {"patch_size": patch_size, "pixel_shuffle_ratio": pixel_shuffle_ratio}
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = self._make_processor(self.image_processor)
        self._tokens = cache(self._count_tokens)
        square = SizeDict(height=size, width=size)
        self.resolutions = torch.tensor(find_supported_resolutions(max_num_chunks=max_patches, patch_size=square))

    def _make_processor(self, image_processor: Any) -> Llama4Processor:
        return Llama4Processor(image_processor, make_tokenizer(_SPECIALS), **self.per_crop)

    def _count_tokens(self, rows: int, cols: int) -> int:
        crop = torch.empty((1, 3, self.size, self.size), device="meta")
        text = self.processor.replace_image_token({"pixel_values": [crop], "aspect_ratios": [(rows, cols)]}, 0)
        return count(self.processor.tokenizer, text)

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the whole image processor."""
        # One pixel, so that it costs nothing; not on the meta device, where upstream's search cannot run.
        image = torch.zeros((1, 1, 1), dtype=torch.uint8).expand(3, height, width)
        out = self.image_processor.preprocess(
            image, input_data_format="channels_first", disable_grouping=True, return_tensors="pt"
        )
        [[rows, cols]] = out["aspect_ratios"].tolist()
        crops = out["pixel_values"].flatten(0, -4)
        assert crops.shape[1:] == (3, self.size, self.size)
        return rows, cols, len(crops)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all, the whole image processor on a twentieth."""
        rows = []
        for at, (height, width) in enumerate(sizes.tolist()):
            canvas = get_best_fit((height, width), self.resolutions, self.settings["resize_to_max_canvas"])
            grid = [side // self.size for side in canvas.tolist()]
            crops = grid[0] * grid[1] + (grid != [1, 1])
            assert at % 20 or (*grid, crops) == self._cut(height, width), (height, width)
            rows.append((*grid, crops, self._tokens(*grid)))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of the whole processor, with real pixel values of a black image."""
        processor = self._make_processor(Llama4ImageProcessor(**self.settings))
        out = processor(images=[Image.new("RGB", (width, height))], text="<|image|>", return_tensors="pt")
        return len(out["pixel_values"].flatten(0, -4)), out["input_ids"].shape[1]
