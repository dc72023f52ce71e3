"""MiniCPMV4_6ImageProcessor's grid and sizes, and MiniCPMV4_6Processor's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.models.minicpmv4_6.image_processing_minicpmv4_6 import MiniCPMV4_6ImageProcessor
from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor
from transformers.models.minicpmv4_6.video_processing_minicpmv4_6 import MiniCPMV4_6VideoProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

Pair = tuple[int, int]


class _ImageProcessor(MiniCPMV4_6ImageProcessor, CheapResize):
    pass


class Oracle:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.image_processor = _ImageProcessor(**settings)
        named = {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        }
        tokenizer = make_tokenizer(["0"], **named)  # the number of the only image
        self.processor = MiniCPMV4_6Processor(self.image_processor, MiniCPMV4_6VideoProcessor(), tokenizer)
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, grid: Pair, source: Pair, slice_patches: Pair | None) -> int:
        targets = [source] + [slice_patches] * (grid[0] * grid[1])
        inputs = {
            "grids": [list(grid)],
            "num_patches_per_image": [len(targets)],
            "target_sizes": torch.tensor(targets, dtype=torch.int32),
        }
        text = self.processor.replace_image_token(inputs, 0, image_token_divisor=self.processor.image_token_divisor)
        token = self.processor.image_token
        if self.processor.default_use_image_id:
            [text] = self.processor._prepend_local_ids([token], [text], token)
        return text.count(token) + count(self.processor.tokenizer, text.replace(token, ""))

    def _search(self, height: int, width: int) -> tuple[Pair, Pair, Pair | None]:
        """(grid, patches of the whole image, patches of a slice), in the steps of the real _preprocess."""
        p = self.image_processor
        size, side, patch = (height, width), p.scale_resolution, p.patch_size
        grid = p.get_sliced_grid(size, p.max_slice_nums, side) if p.slice_mode else None
        source = p.find_best_resize(size, side, patch, p.downsample_mode, allow_upscale=grid is None)
        source = (source[0] // patch, source[1] // patch)
        if grid is None:
            return (0, 0), source, None
        refined = p.get_refine_size(size, grid, side, patch, p.downsample_mode, allow_upscale=True)
        return tuple(grid), source, (refined[0] // grid[0] // patch, refined[1] // grid[1] // patch)

    def _cut(self, height: int, width: int) -> tuple[Pair, Pair, Pair | None]:
        """The same of the real _preprocess."""
        p = self.image_processor
        names = ("max_slice_nums", "scale_resolution", "patch_size", "slice_mode", "downsample_mode")
        out = p._preprocess(
            [empty_image(height, width, 3)], do_resize=True, resample=None, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, image_mean=p.image_mean, image_std=p.image_std,
            **{name: getattr(p, name) for name in names},
        )  # fmt: skip
        [grid], [crops], targets = out["grids"], out["num_patches_per_image"], out["target_sizes"].tolist()
        assert len(targets) == crops == 1 + grid[0] * grid[1]
        assert out["pixel_values"].shape[-1] == sum(h * w for h, w in targets) * p.patch_size
        assert all(target == targets[1] for target in targets[2:])
        return tuple(grid), tuple(targets[0]), tuple(targets[1]) if crops > 1 else None

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all; every fortieth is cut as well."""
        rows = []
        for at, (height, width) in enumerate(sizes.tolist()):
            found = self._search(height, width)
            if at % 40 == 0:
                assert self._cut(height, width) == found, (height, width)
            (r, c), *_ = found
            rows.append((r, c, 1 + r * c, self._tokens(*found)))
        return answers(rows)

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(sizes), dtype=np.bool_)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = MiniCPMV4_6ImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        [grid], [crops], targets = out["grids"], out["num_patches_per_image"], out["target_sizes"].tolist()
        return crops, self._tokens(tuple(grid), tuple(targets[0]), tuple(targets[1]) if crops > 1 else None)
