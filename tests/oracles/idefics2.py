"""Idefics2ImageProcessor's quadrants and Idefics2Processor's text."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.image_utils import SizeDict
from transformers.models.idefics2.image_processing_idefics2 import (
    Idefics2ImageProcessor,
    get_resize_output_image_size,
)
from transformers.models.idefics2.processing_idefics2 import Idefics2Processor

from oracles import Answers, answers
from oracles.cheap_pixels import empty_image
from oracles.tokenizers import make_tokenizer


class Oracle:
    def __init__(self, *, do_image_splitting: bool = False, image_seq_len: int = 64) -> None:
        self.split = do_image_splitting
        self.image_processor = Idefics2ImageProcessor(do_image_splitting=do_image_splitting)
        self.processor = Idefics2Processor(self.image_processor, make_tokenizer([]), image_seq_len=image_seq_len)
        size: Any = self.image_processor.size
        self.size = SizeDict(shortest_edge=size["shortest_edge"], longest_edge=size["longest_edge"])

    @cached_property
    def tokens(self) -> int:
        """Of the text that the processor makes of one image, whatever its size."""
        [ids] = self.processor(text="<image>", add_special_tokens=False)["input_ids"]
        assert self.processor.tokenizer.unk_token_id not in ids
        return len(ids)

    def _crops(self, height: int, width: int) -> int | None:
        """None where a quadrant is empty: its size cannot be computed, or it cannot be resized."""
        image = empty_image(height, width, 1, 1)
        crops = self.image_processor.split_images(image)[0] if self.split else [image[0]]
        for crop in crops:
            if crop.numel() == 0:
                return None
            sides = get_resize_output_image_size(crop, self.size)
            assert self.size.shortest_edge <= min(sides)
            assert max(sides) <= self.size.longest_edge
        return len(crops)

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """A side of 1 px has no half."""
        return np.array([self._crops(*size) is None for size in sizes.tolist()], dtype=bool)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for height, width in sizes.tolist():
            crops = self._crops(height, width)
            grid = (2, 2) if self.split else (0, 0)
            rows.append((-1, -1, -1, -1) if crops is None else (*grid, crops, self.tokens))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = self.image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        return out["pixel_values"].shape[1], self.tokens
