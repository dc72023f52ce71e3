"""PerceptionLMImageProcessor's cut and PerceptionLMProcessor's number of tokens."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.models.perception_lm.image_processing_perception_lm import PerceptionLMImageProcessor
from transformers.models.perception_lm.processing_perception_lm import PerceptionLMProcessor
from transformers.models.perception_lm.video_processing_perception_lm import PerceptionLMVideoProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

WHOLE_CUT = 10
"""Every so many-th image is cut and counted with all of the real code, the others with its search."""


@cache
def _supported_aspect_ratios(max_num_tiles: int) -> dict[float, list[tuple[int, int]]]:
    return PerceptionLMImageProcessor(max_num_tiles=max_num_tiles)._find_supported_aspect_ratios()


class _ImageProcessor(PerceptionLMImageProcessor, CheapResize):
    """Without pixels; lists its ratios once."""

    def _find_supported_aspect_ratios(self) -> dict[float, list[tuple[int, int]]]:
        return _supported_aspect_ratios(self.max_num_tiles)


class Oracle:
    def __init__(
        self,
        *,
        tile_size: int = 448,
        max_num_tiles: int = 36,
        vision_input_type: str = "thumb+tile",
        patch_size: int = 14,
        pooling_ratio: int = 2,
    ) -> None:
        self.settings: dict[str, Any] = {
            "tile_size": tile_size,
            "max_num_tiles": max_num_tiles,
            "vision_input_type": vision_input_type,
        }
        self.tile_size = tile_size
        self.max_num_tiles = max_num_tiles
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = PerceptionLMProcessor(
            PerceptionLMVideoProcessor(),
            self.image_processor,
            make_tokenizer([], image_token="<image>", video_token="<video>"),
            patch_size=patch_size,
            pooling_ratio=pooling_ratio,
        )
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, crops: int) -> int:
        pixel_values = np.zeros((crops, 3, self.tile_size, self.tile_size), dtype=np.uint8)
        text = self.processor.replace_image_token({"pixel_values": [pixel_values]}, 0)
        return count(self.processor.tokenizer, text)

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops), in the steps of the real _preprocess."""
        processor, image = self.image_processor, empty_image(height, width, 1, 1)
        _, whole = processor.resize(image, self.tile_size, max_num_tiles=1)
        assert whole == (1, 1)
        if self.settings["vision_input_type"] != "thumb+tile":
            return 0, 0, 1
        canvas, (cols, rows) = processor.resize(image, self.tile_size, max_num_tiles=self.max_num_tiles)
        tiles = processor._split(canvas, cols, rows)
        assert tuple(tiles.shape[-2:]) == (self.tile_size, self.tile_size)
        return rows, cols, tiles.shape[1] + 1

    def _search(self, height: int, width: int) -> tuple[int, int, int]:
        processor = self.image_processor
        if self.settings["vision_input_type"] != "thumb+tile":
            return 0, 0, 1
        found = processor._fit_image_to_canvas(width, height, self.tile_size)
        cols, rows = found or processor._find_closest_aspect_ratio(width, height, self.tile_size)
        return rows, cols, rows * cols + 1

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for i, (height, width) in enumerate(sizes.tolist()):
            found = self._search(height, width)
            if i % WHOLE_CUT == 0:
                assert self._cut(height, width) == found
                counted = self.processor._get_num_multimodal_tokens([(height, width)])
                assert counted.num_image_tokens == [self._tokens(found[2])]
                assert counted.num_image_patches == [found[2]]
            rows.append((*found, self._tokens(found[2])))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = PerceptionLMImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        [pixel_values] = out["pixel_values"]
        return len(pixel_values), self._tokens(len(pixel_values))
