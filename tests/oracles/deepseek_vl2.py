"""DeepSeek-VL2's own processor, written out: every resolution is tried, every token is written down.

As github.com/deepseek-ai/DeepSeek-VL2, deepseek_vl2/models/processing_deepseek_vl_v2.py (select_best_resolution,
tokenize_with_images) has them. Nothing of it comes from maxcrops.
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
        candidate_resolutions: list[tuple[int, int]],
        patch_size: int = 14,
        downsample_ratio: int = 2,
        cropping: bool = True,
    ) -> None:
        """`candidate_resolutions` are (width, height), as the original has them."""
        self.candidates = candidate_resolutions
        self.size = candidate_resolutions[0][0]
        self.side = math.ceil((self.size // patch_size) / downsample_ratio)
        self.cropping = cropping
        self._tokens = cache(self._write_tokens)

    def _best(self, height: int, width: int) -> tuple[int, int]:
        if not self.cropping:
            return self.size, self.size
        best, most, least_waste = (0, 0), 0, float("inf")
        for candidate_width, candidate_height in self.candidates:
            scale = min(candidate_width / width, candidate_height / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            waste = candidate_width * candidate_height - effective
            if effective > most or (effective == most and waste < least_waste):
                best, most, least_waste = (candidate_width, candidate_height), effective, waste
        return best

    def _write_tokens(self, rows: int, cols: int) -> int:
        tokens = []
        for _ in range(self.side):
            tokens += ["<image>"] * self.side + ["newline"]
        tokens += ["separator"]
        for _ in range(rows * self.side):
            tokens += ["<image>"] * (cols * self.side) + ["newline"]
        return len(tokens)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        found = []
        for height, width in sizes.tolist():
            best_width, best_height = self._best(height, width)
            rows, cols = best_height // self.size, best_width // self.size
            found.append((rows, cols, 1 + rows * cols, self._tokens(rows, cols)))
        return answers(found)
