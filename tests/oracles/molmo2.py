"""Molmo2ImageProcessor's geometry and Molmo2Processor's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.models.molmo2 import image_processing_molmo2 as upstream
from transformers.models.molmo2.processing_molmo2 import Molmo2Processor
from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor

from oracles import Answers, answers
from oracles.tokenizers import count, make_tokenizer

_SPECIALS = [
    "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
    "<im_end>", "<frame_end>", "<im_low>",
]  # fmt: skip

_tilings: list[tuple[int, int]] = []
_real_geometry = upstream.compute_crop_geometry


def _noting_geometry(*args: Any, **kwargs: Any) -> tuple[int, int, int, int]:
    geometry = _real_geometry(*args, **kwargs)
    _tilings.append(geometry[:2])
    return geometry


upstream.compute_crop_geometry = _noting_geometry  # only its callers see the tiling


class Oracle:
    def __init__(self, *, use_single_crop_col_tokens: bool | None = None, **settings: Any) -> None:
        self.image_processor = upstream.Molmo2ImageProcessor(**settings)
        self.processor = Molmo2Processor(
            self.image_processor,
            Molmo2VideoProcessor(),
            make_tokenizer(_SPECIALS),
            use_single_crop_col_tokens=use_single_crop_col_tokens,
        )
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, *image_grid: int) -> int:
        text = self.processor.replace_image_token({"image_grids": [list(image_grid)]}, 0)
        return count(self.processor.tokenizer, text)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for height, width in sizes.tolist():
            _tilings.clear()
            image_grid, crops = self.image_processor.get_image_grid_and_crops(height, width)
            [tiling] = _tilings
            rows.append((*tiling, crops, self._tokens(*image_grid)))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(crops, pooled features, patches, tokens) of real pixel values of a black image."""
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = self.image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        [image_grid] = out["image_grids"].tolist()
        low_rows, low_cols, rows, cols = image_grid
        assert out["image_num_crops"].tolist() == [len(out["pixel_values"])]
        assert len(out["image_token_pooling"]) == low_rows * low_cols + rows * cols
        crops, patches, _ = out["pixel_values"].shape
        return crops, len(out["image_token_pooling"]), crops * patches, self._tokens(*image_grid)
