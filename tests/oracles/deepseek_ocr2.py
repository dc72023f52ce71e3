"""DeepseekOcr2ImageProcessor's cut and DeepseekOcr2Processor's token string; Unlimited-OCR's alike."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.image_utils import SizeDict
from transformers.models.deepseek_ocr2 import image_processing_deepseek_ocr2 as upstream
from transformers.models.deepseek_ocr2.processing_deepseek_ocr2 import DeepseekOcr2Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer


class NotingResize(CheapResize):
    """Notes the size of each resize."""

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.resizes.append((size.height, size.width))
        return super().resize(image, size, *args, **kwargs)

    def pad_to_square(self, images: torch.Tensor, background_color: Any = 0) -> torch.Tensor:
        side = max(images.shape[-2:])
        return empty_image(side, side, *images.shape[:-2])


class _ImageProcessor(NotingResize, upstream.DeepseekOcr2ImageProcessor):
    pass


class Oracle:
    upstream: Any = upstream
    cheap_class: Any = _ImageProcessor
    image_processor_class: Any = upstream.DeepseekOcr2ImageProcessor
    processor_class: Any = DeepseekOcr2Processor

    def __init__(self, *, size: int = 1024, **settings: Any) -> None:
        self.settings = {"size": {"height": size, "width": size}, **settings}
        self.image_processor = self.cheap_class(**self.settings)
        self.processor = self.processor_class(self.image_processor, make_tokenizer([], image_token="<image>"))
        self._tokens = cache(self._count_tokens)

    def _count_tokens(self, rows: int, cols: int) -> int:
        crops = rows * cols
        # Without local crops patches_grid is 1 x 1 all the same.
        inputs = {"num_local_patches": [crops], "patches_grid": [[max(cols, 1), max(rows, 1)]]}
        return count(self.processor.tokenizer, self.processor.replace_image_token(inputs, 0))

    def _search(self, height: int, width: int) -> tuple[int, int]:
        p = self.image_processor
        local = p.get_number_of_image_patches(height, width) - 1
        if local == 0:
            return 0, 0
        tile = (p.tile_size, p.tile_size)
        cols, rows = self.upstream.get_optimal_tiled_canvas((height, width), tile, p.min_patches, p.max_patches)
        assert rows * cols == local
        return rows, cols

    def _preprocess(self, height: int, width: int) -> Any:
        p = self.image_processor
        p.resizes = []
        names = (
            "size", "crop_to_patches", "min_patches", "max_patches", "tile_size", "maximum_pad_value", "do_rescale",
            "rescale_factor", "do_normalize", "image_mean", "image_std",
        )  # fmt: skip
        settings = {name: getattr(p, name) for name in names if hasattr(p, name)}
        settings["size"] = SizeDict(**dict(settings["size"]))
        images = [empty_image(height, width, 3)]
        return p._preprocess(images, resample=None, disable_grouping=None, return_tensors=None, **settings)

    def _cut(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols) of the real _preprocess."""
        p = self.image_processor
        out = self._preprocess(height, width)
        [local] = out["num_local_patches"]
        assert len(out.get("pixel_values_local", ())) == local
        [whole] = out["pixel_values"]
        assert whole.shape[-1] == (p.size["height"] if p.crop_to_patches else p.tile_size)
        canvas_height, canvas_width = p.resizes[0] if local else (0, 0)
        return canvas_height // p.tile_size, canvas_width // p.tile_size

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all; every tenth is cut as well."""
        rows = []
        for at, ((height, width), refused) in enumerate(zip(sizes.tolist(), self.refused(sizes).tolist(), strict=True)):
            if refused:
                rows.append((-1, -1, -1, -1))
                continue
            grid = self._search(height, width)
            if at % 10 == 0:
                assert self._cut(height, width) == grid, (height, width)
            rows.append((*grid, 1 + grid[0] * grid[1], self._tokens(*grid)))
        return answers(rows)

    def _global_side(self) -> int:
        p = self.image_processor
        return p.size["height"] if p.crop_to_patches else p.tile_size

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """A side of the global view that is rounded to nothing."""
        side = self._global_side()
        found = [
            min(round(height * (side / max(height, width))), round(width * (side / max(height, width)))) == 0
            for height, width in sizes.tolist()
        ]
        return np.array(found, dtype=np.bool_)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = self.image_processor_class(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        crops = len(out["pixel_values"]) + len(out.get("pixel_values_local", ()))
        return crops, count(self.processor.tokenizer, self.processor.replace_image_token(out, 0))
