"""Lfm2VlImageProcessor's resize_and_split and Lfm2VlProcessor's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

_SPECIALS = [
    "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>",
    *(f"<|img_row_{row + 1}_col_{col + 1}|>" for row in range(40) for col in range(40)),
]  # fmt: skip


class _ImageProcessor(Lfm2VlImageProcessor, CheapResize):
    pass


class Oracle:
    def __init__(
        self, *, do_image_splitting: bool = True, use_image_special_tokens: bool = True, **settings: Any
    ) -> None:
        self.settings = {"do_image_splitting": do_image_splitting, **settings}
        self.image_processor = _ImageProcessor(**self.settings)
        self.use_image_special_tokens = use_image_special_tokens
        self.processor = Lfm2VlProcessor(self.image_processor, make_tokenizer(_SPECIALS, image_token="<image>"))
        names = (
            "downsample_factor", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens", "max_image_tokens",
            "encoder_patch_size", "tile_size", "max_pixels_tolerance",
        )  # fmt: skip
        self._arguments = {name: getattr(self.image_processor, name) for name in names}
        if not do_image_splitting:  # as _preprocess does
            self._arguments |= {"min_tiles": 1, "max_tiles": 1}
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, rows: int, cols: int, height: int, width: int) -> int:
        inputs = {"image_rows": [rows], "image_cols": [cols], "image_sizes": [[height, width]]}
        text = self.processor.replace_image_token(inputs, 0, use_image_special_tokens=self.use_image_special_tokens)
        token = self.processor.image_token
        return text.count(token) + count(self.processor.tokenizer, text.replace(token, ""))

    def _cut(self, height: int, width: int) -> tuple[int, int, int, int, list[tuple[int, int]]]:
        """(rows, cols, resized height, resized width, sizes of the crops) of the real resize_and_split."""
        image = empty_image(height, width, 1, 1)
        [crops], [rows], [cols], [size] = self.image_processor.resize_and_split(image, resample=None, **self._arguments)
        return rows, cols, *size, [tuple(crop.shape[-2:]) for crop in crops]

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for (height, width), refused in zip(sizes.tolist(), self.refused(sizes).tolist(), strict=True):
            if refused:
                rows.append((-1, -1, -1, -1))
                continue
            r, c, *size, crops = self._cut(height, width)
            tokens = self._tokens(r, c, *size)
            grid = (0, 0) if crops == [tuple(size)] else (r, c)
            rows.append((*grid, len(crops), tokens))
        return answers(rows)

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """A thumbnail with more patches than the tiles are padded to cannot be stacked with them."""
        patch = self.image_processor.encoder_patch_size
        found = []
        for height, width in sizes.tolist():
            crops = self._cut(height, width)[-1]
            patches = [(h // patch) * (w // patch) for h, w in crops]
            found.append(len(crops) > 1 and max(patches) > self.image_processor.max_num_patches)
        return np.array(found, dtype=np.bool_)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = Lfm2VlImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(
            image, input_data_format="channels_last", return_row_col_info=True, return_tensors="pt"
        )
        [rows], [cols], [size] = (out[key].tolist() for key in ("image_rows", "image_cols", "image_sizes"))
        return len(out["pixel_values"]), self._tokens(rows, cols, *size)
