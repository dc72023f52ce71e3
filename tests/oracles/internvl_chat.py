"""InternVL's own dynamic_preprocess and prompt, written out: every grid is tried, every token is counted.

As github.com/OpenGVLab/InternVL, internvl_chat/internvl/train/dataset.py (dynamic_preprocess,
find_closest_aspect_ratio) has them. Nothing of it comes from maxcrops.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles import Answers, answers


def closest_grid(height: int, width: int, size: int, smallest: int, largest: int) -> tuple[int, int]:
    """(rows, cols) of the ratio nearest to width / height; a later one as near needs half of its area filled."""
    grids = [
        (cols, rows)
        for cols in range(1, largest + 1)
        for rows in range(1, largest + 1)
        if smallest <= cols * rows <= largest
    ]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    best, least = (1, 1), float("inf")
    for cols, rows in grids:
        difference = abs(width / height - cols / rows)
        if difference < least:
            best, least = (cols, rows), difference
        elif difference == least and width * height > 0.5 * size * size * cols * rows:
            best = (cols, rows)
    return best[1], best[0]


class Oracle:
    def __init__(
        self,
        *,
        force_image_size: int = 448,
        patch_size: int = 14,
        min_dynamic_patch: int = 1,
        max_dynamic_patch: int = 12,
        dynamic_image_size: bool = True,
        use_thumbnail: bool = True,
    ) -> None:
        self.size = force_image_size
        self.range = (min_dynamic_patch, max_dynamic_patch)
        self.dynamic, self.use_thumbnail = dynamic_image_size, use_thumbnail
        self.num_image_token = int((force_image_size // patch_size) ** 2 * 0.5**2)

    def _tokens(self, crops: int) -> int:
        return len(["<img>", *["<IMG_CONTEXT>"] * self.num_image_token * crops, "</img>"])

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        rows = []
        for height, width in sizes.tolist():
            grid = closest_grid(height, width, self.size, *self.range) if self.dynamic else (1, 1)
            crops = grid[0] * grid[1]
            crops += self.use_thumbnail and crops != 1
            rows.append((*grid, crops, self._tokens(crops)))
        return answers(rows)
