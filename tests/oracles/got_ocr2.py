"""GotOcr2ImageProcessor whole, and GotOcr2Processor's token string; the base of its other users' oracles."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2 import image_processing_got_ocr2 as upstream
from transformers.models.got_ocr2.processing_got_ocr2 import GotOcr2Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer


class NotingResize(CheapResize):
    """Notes the size of each resize."""

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.resizes.append((size.height, size.width))
        return super().resize(image, size, *args, **kwargs)


class _ImageProcessor(upstream.GotOcr2ImageProcessor, NotingResize):
    pass


class Oracle:
    image_processor_class: Any = upstream.GotOcr2ImageProcessor
    cheap_class: Any = _ImageProcessor
    image_token = "<imgpad>"
    search = staticmethod(upstream.get_optimal_tiled_canvas)

    def __init__(
        self, *, size: int, max_patches: int = 12, min_patches: int = 1, crop_to_patches: bool = True, **processor: Any
    ) -> None:
        self.size = size
        self.settings = {"max_patches": max_patches, "min_patches": min_patches, "crop_to_patches": crop_to_patches}
        self.image_processor = self.cheap_class(size={"height": size, "width": size}, **self.settings)
        self.processor = self._make_processor(self.image_processor, **processor)
        self._tokens = cache(self._count_tokens)

    def _make_processor(self, image_processor: Any) -> Any:
        return GotOcr2Processor(image_processor, make_tokenizer(["<imgpad>", "<img>", "</img>"]))

    def _expansion(self, crops: int) -> str:
        """What stands in the text for an image."""
        return self.processor.replace_image_token(
            {"num_patches": [crops]},
            0,
            num_pages_per_batch=[1],
            patch_indices=np.array([1]),
            num_image_tokens=self.processor.num_image_tokens,
        )

    def _count_tokens(self, crops: int) -> int:
        return count(self.processor.tokenizer, self._expansion(crops))

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the whole image processor."""
        self.image_processor.resizes = []
        out = self.image_processor.preprocess(
            empty_image(height, width, 3), input_data_format="channels_first", return_tensors="pt", **self.settings
        )
        [crops] = out["num_patches"].tolist()
        assert tuple(out["pixel_values"].shape) == (crops, 3, self.size, self.size)
        canvas_height, canvas_width = self.image_processor.resizes[0]
        return canvas_height // self.size, canvas_width // self.size, crops

    def _found(self, height: int, width: int) -> tuple[int, int, int]:
        """The same of the search alone, and the processor's own number of crops."""
        crops = self.image_processor.get_number_of_image_patches(height, width, self.settings)
        if not self.settings["crop_to_patches"]:
            return 1, 1, crops
        fewest, most = self.settings["min_patches"], self.settings["max_patches"]
        cols, rows = self.search((height, width), (self.size, self.size), fewest, most)
        return rows, cols, crops

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all, the whole processor on a tenth."""
        rows = []
        for at, (height, width) in enumerate(sizes.tolist()):
            found = self._found(height, width)
            assert at % 10 or found == self._cut(height, width), (height, width)
            rows.append((*found, self._tokens(found[2])))
        result = answers(rows)
        if hasattr(self.processor, "_get_num_multimodal_tokens"):
            counted = self.processor._get_num_multimodal_tokens(sizes[::10].tolist(), **self.settings)
            assert counted.num_image_tokens == result.tokens[::10].tolist()
            assert counted.num_image_patches == result.crops[::10].tolist()
        return result

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of the whole processor, with real pixel values of a black image."""
        image_processor = self.image_processor_class(size={"height": self.size, "width": self.size})
        self.processor.image_processor = image_processor
        image = Image.new("RGB", (width, height))
        settings = {**self.settings, "padding": False, "return_tensors": "pt"}
        out = self.processor(images=[image], text=self.image_token, **settings)
        self.processor.image_processor = self.image_processor
        return len(out["pixel_values"]), out["input_ids"].shape[1]
