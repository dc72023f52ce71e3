"""Gemma3ImageProcessor's pan and scan, and the image blocks of Gemma3Processor's token string.

The English sentence that the processor writes around the blocks of a split image is text, and not counted.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

from oracles import Answers, answers
from oracles.cheap_pixels import empty_image
from oracles.tokenizers import count, make_tokenizer

WORDS = "Here is the original image  and here are some crops to help you see better"


class Oracle:
    def __init__(
        self,
        *,
        size: int,
        do_pan_and_scan: bool = False,
        max_num_crops: int = 4,
        min_crop_size: int = 256,
        min_ratio: float = 1.2,
        image_seq_length: int = 256,
    ) -> None:
        self.size = size
        self.do_pan_and_scan = do_pan_and_scan
        self.settings: dict[str, Any] = {
            "pan_and_scan_max_num_crops": max_num_crops,
            "pan_and_scan_min_crop_size": min_crop_size,
            "pan_and_scan_min_ratio_to_activate": min_ratio,
        }
        self.image_processor = Gemma3ImageProcessor(size={"height": size, "width": size})
        named = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
        self.processor = Gemma3Processor(
            self.image_processor, make_tokenizer([], **named), image_seq_length=image_seq_length
        )
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, slices: int) -> int:
        text = self.processor.replace_image_token({"num_crops": [slices]}, 0)
        block = self.processor.full_image_sequence
        assert " ".join(text.replace(block, "").split()) == ("" if slices == 0 else " ".join(WORDS.split()))
        return text.count(block) * count(self.processor.tokenizer, block)

    def _slices(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each slice of the real pan_and_scan_batched."""
        if not self.do_pan_and_scan:
            return []
        slices = self.image_processor.pan_and_scan_batched(empty_image(height, width, 1, 1), **self.settings)
        return [(slice.shape[-2], slice.shape[-1]) for slice in slices]

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Where the last slice is empty, which no resize takes: only with a minimum size far below the default."""
        return np.array([any(0 in slice for slice in self._slices(*size)) for size in sizes.tolist()], dtype=bool)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for height, width in sizes.tolist():
            slices = self._slices(height, width)
            if any(0 in slice for slice in slices):
                rows.append((-1, -1, -1, -1))
                continue
            number = len(slices)
            # They are cut along the long side, a square along its width.
            grid = (1, number) if width >= height else (number, 1)
            rows.append((*(grid if number else (0, 0)), number + 1, self._tokens(number)))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = self.image_processor.preprocess(
            image,
            input_data_format="channels_last",
            return_tensors="pt",
            do_pan_and_scan=self.do_pan_and_scan,
            **self.settings,
        )
        [slices] = out["num_crops"].tolist()
        assert len(out["pixel_values"]) == slices + 1
        return slices + 1, self._tokens(slices)
