"""MiniCPM-V 2.6's own image processor, written out: every grid is tried, every token is written down.

As huggingface.co/openbmb/MiniCPM-V-2_6, image_processing_minicpmv.py (get_sliced_grid, get_slice_image_placeholder) has
them. Nothing of it comes from maxcrops.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from oracles import Answers, answers


class Oracle:
    def __init__(
        self,
        *,
        max_slice_nums: int = 9,
        scale_resolution: int = 448,
        image_feature_size: int = 64,
        slice_mode: bool = True,
        use_image_id: bool = False,
    ) -> None:
        self.max_slice_nums, self.area = max_slice_nums, scale_resolution * scale_resolution
        self.features = ["<unk>"] * image_feature_size
        self.slice_mode, self.use_image_id = slice_mode, use_image_id
        self._tokens = cache(self._write_tokens)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols); (0, 0) where the image is not sliced."""
        most = min(math.ceil(width * height / self.area), self.max_slice_nums)
        if most <= 1 or not self.slice_mode:
            return 0, 0
        best, least = (1, 1), float("inf")
        for slices in (most - 1, most, most + 1):
            if slices == 1 or slices > self.max_slice_nums:
                continue
            for cols in range(1, slices + 1):
                if slices % cols == 0:
                    error = abs(math.log(width / height) - math.log(cols / (slices // cols)))
                    if error < least:
                        best, least = (slices // cols, cols), error
        return best

    def _write_tokens(self, rows: int, cols: int) -> int:
        tokens = ["<image_id>", "0", "</image_id>"] if self.use_image_id else []
        tokens += ["<image>", *self.features, "</image>"]
        for row in range(rows):
            tokens += ["\n"] if row else []
            for _ in range(cols):
                tokens += ["<slice>", *self.features, "</slice>"]
        return len(tokens)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        found = []
        for height, width in sizes.tolist():
            rows, cols = self._grid(height, width)
            found.append((rows, cols, 1 + rows * cols, self._tokens(rows, cols)))
        return answers(found)
