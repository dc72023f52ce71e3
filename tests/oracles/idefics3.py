"""Idefics3ImageProcessor's resizes and split, and Idefics3Processor's token string; SmolVLM's alike."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.image_utils import SizeDict
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

TAGS = [f"<row_{row + 1}_col_{col + 1}>" for row in range(16) for col in range(16)]
"""More than the published tokenizers know: beyond 6 rows or columns those split a tag."""
SPECIALS = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", "<video>", *TAGS]


class _ImageProcessor(Idefics3ImageProcessor, CheapResize):
    pass


class Oracle:
    image_processor_class: Any = Idefics3ImageProcessor
    cheap_class: Any = _ImageProcessor

    def __init__(self, *, longest_edge: int, tile: int, image_seq_len: int) -> None:
        self.size = SizeDict(longest_edge=longest_edge)
        self.tile = tile
        self.settings = {"size": {"longest_edge": longest_edge}, "max_image_size": {"longest_edge": tile}}
        self.image_processor = self.cheap_class(**self.settings)
        self.processor = self._make_processor(image_seq_len)
        self._tokens = cache(self._count_tokens)

    def _make_processor(self, image_seq_len: int) -> Any:
        return Idefics3Processor(self.image_processor, make_tokenizer(SPECIALS), image_seq_len=image_seq_len)

    def _count_tokens(self, rows: int, cols: int) -> int:
        text = self.processor.replace_image_token({"rows": [[rows]], "cols": [[cols]]}, 0)
        return count(self.processor.tokenizer, text)

    def _split(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops), in the steps of the real _preprocess."""
        processor = self.image_processor
        image = processor.resize(empty_image(height, width, 1, 1), self.size)
        image = processor.resize_for_vision_encoder(image, self.tile)
        frames, [rows], [cols] = processor.split_images(image, max_image_size={"longest_edge": self.tile})
        return rows, cols, frames.shape[1]

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for height, width in sizes.tolist():
            split = self._split(height, width)
            rows.append((*split, self._tokens(*split[:2])))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = self.image_processor_class(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(
            image, input_data_format="channels_last", return_row_col_info=True, return_tensors="pt"
        )
        [[rows]], [[cols]] = out["rows"], out["cols"]
        return out["pixel_values"].shape[1], self._tokens(rows, cols)
