"""GotOcr2ImageProcessor's cut, which InternVLProcessor uses, and the latter's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.image_processing_got_ocr2 import (
    GotOcr2ImageProcessor,
    get_optimal_tiled_canvas,
)
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer


class _ImageProcessor(GotOcr2ImageProcessor, CheapResize):
    """Notes the size of each resize."""

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.resizes.append((size.height, size.width))
        return super().resize(image, size, *args, **kwargs)


class Oracle:
    def __init__(self, *, size: int, max_patches: int = 12, min_patches: int = 1) -> None:
        self.size = size
        self.settings = {"max_patches": max_patches, "min_patches": min_patches}
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        self.image_processor = _ImageProcessor(size={"height": size, "width": size}, **self.settings)
        self.processor = InternVLProcessor(self.image_processor, make_tokenizer([], **named), InternVLVideoProcessor())
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, crops: int) -> int:
        text = self.processor.replace_image_token({"num_patches": [crops]}, 0)
        return count(self.processor.tokenizer, text)

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the real crop_image_to_patches."""
        self.image_processor.resizes = []
        patch_size = SizeDict(height=self.size, width=self.size)
        image = empty_image(height, width, 1, 1)
        crops = self.image_processor.crop_image_to_patches(image, patch_size=patch_size, **self.settings)
        assert tuple(crops.shape[-2:]) == (self.size, self.size)
        canvas_height, canvas_width = self.image_processor.resizes[0]
        return canvas_height // self.size, canvas_width // self.size, crops.shape[1]

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """By the search, which is ten times as quick as the cut; a tenth is cut."""
        args = ((self.size, self.size), self.settings["min_patches"], self.settings["max_patches"])
        found = [get_optimal_tiled_canvas((height, width), *args) for height, width in sizes.tolist()]
        counted = self.processor._get_num_multimodal_tokens(sizes.tolist())
        columns = (counted.num_image_patches, counted.num_image_tokens)
        rows = [(r, c, n, t) for (c, r), n, t in zip(found, *columns, strict=True)]
        for (height, width), row in zip(sizes.tolist()[::10], rows[::10], strict=True):
            cut = self._cut(height, width)
            assert (*cut, self._tokens(cut[2])) == row
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = GotOcr2ImageProcessor(**self.image_processor.to_dict())
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(
            image, crop_to_patches=True, input_data_format="channels_last", return_tensors="pt"
        )
        assert out["num_patches"].tolist() == [len(out["pixel_values"])]
        return len(out["pixel_values"]), self._tokens(len(out["pixel_values"]))
