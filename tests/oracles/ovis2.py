"""Ovis2ImageProcessor's search and cut, and Ovis2Processor's token string."""

from __future__ import annotations

import builtins
import functools
import operator
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.image_utils import SizeDict
from transformers.models.ovis2 import image_processing_ovis2 as upstream
from transformers.models.ovis2.processing_ovis2 import Ovis2Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

WHOLE_CUT = 10
"""Every so many-th image is cut with all of the real code, the others with its search."""
_SPECIALS = ["<image>", "<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]


def _plain_sum(values: Iterable[float]) -> float:
    """That of Python up to 3.11."""
    return functools.reduce(operator.add, values, 0)


def _compensated_sum(values: Iterable[float]) -> float:
    """That of Python from 3.12 on (Python/bltinmodule.c): whole numbers first as such, then floats with Neumaier's
    compensation; whole numbers among floats are added without."""
    if sys.version_info >= (3, 12):
        return builtins.sum(values)
    total: float = 0
    lost = 0.0
    for value in values:
        if isinstance(total, float) and isinstance(value, float):
            after = total + value
            lost += (total - after) + value if abs(total) >= abs(value) else (value - after) + total
            total = after
        else:
            total = total + value
    return total + lost if lost else total


class _ImageProcessor(upstream.Ovis2ImageProcessor, CheapResize):
    pass


class Oracle:
    def __init__(
        self,
        *,
        size: int,
        crop_to_patches: bool = True,
        max_patches: int = 12,
        min_patches: int = 1,
        use_covering_area_grid: bool = True,
        corrected: bool = False,
        image_seq_length: int = 256,
        compensated_sum: bool = True,
    ) -> None:
        """`corrected` gives the grid as the search finds it; the processor exchanges rows and columns."""
        self.size = size
        self.sum = _compensated_sum if compensated_sum else _plain_sum
        self.corrected = corrected
        self.settings: dict[str, Any] = {
            "size": {"height": size, "width": size},
            "crop_to_patches": crop_to_patches,
            "max_patches": max_patches,
            "min_patches": min_patches,
            "use_covering_area_grid": use_covering_area_grid,
        }
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = Ovis2Processor(
            self.image_processor, make_tokenizer(_SPECIALS), image_seq_length=image_seq_length
        )
        self._tokens = functools.cache(self._count_tokens)

    def _count_tokens(self, rows: int, cols: int) -> int:
        text = self.processor.replace_image_token({"grids": torch.tensor([[rows, cols]])}, 0)
        return count(self.processor.tokenizer, text)

    def _search(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols), as the processor takes what its search returns."""
        settings = self.settings
        if not settings["crop_to_patches"] or settings["max_patches"] == 1:
            return 1, 1
        if settings["use_covering_area_grid"]:
            cols, rows = upstream.get_min_tile_covering_grid((height, width), self.size, settings["max_patches"])
        else:
            cols, rows = upstream.get_optimal_tiled_canvas(
                (height, width), (self.size, self.size), settings["min_patches"], settings["max_patches"]
            )
        return rows, cols

    def _cut(self, height: int, width: int) -> tuple[tuple[int, int], int]:
        """((rows, cols), crops) of the real crop_image_to_patches."""
        names = ("min_patches", "max_patches", "use_covering_area_grid")
        crops, [[rows, cols]] = self.image_processor.crop_image_to_patches(
            empty_image(height, width, 1, 1),
            patch_size=SizeDict(height=self.size, width=self.size),
            **{name: self.settings[name] for name in names},
        )
        assert tuple(crops.shape[-2:]) == (self.size, self.size)
        return (rows, cols), crops.shape[1]

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        upstream.sum = self.sum  # type: ignore[attr-defined]
        upstream.get_min_tile_covering_grid.cache_clear()
        rows = []
        for i, (height, width) in enumerate(sizes.tolist()):
            grid = self._search(height, width)
            local = grid[0] * grid[1]
            crops = local + (local > 1)
            if i % WHOLE_CUT == 0 and self.settings["crop_to_patches"] and self.settings["max_patches"] > 1:
                assert self._cut(height, width) == (grid, crops)
            rows.append((*(grid[::-1] if self.corrected else grid), crops, self._tokens(*grid)))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        upstream.sum = self.sum  # type: ignore[attr-defined]
        upstream.get_min_tile_covering_grid.cache_clear()
        image_processor = upstream.Ovis2ImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        [[rows, cols]] = out["grids"].tolist()
        return len(out["pixel_values"]), self._tokens(rows, cols)
