"""AriaImageProcessor's cut and AriaProcessor's token string, one image at a time.

One at a time, as the processor counts every image of a batch like the one with most crops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.models.aria.image_processing_aria import AriaImageProcessor, select_best_resolution
from transformers.models.aria.processing_aria import AriaProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

WHOLE_CUT = 10
"""Every so many-th image is cut with all of the real code, the others with its search."""


class _ImageProcessor(AriaImageProcessor, CheapResize):
    pass


class Oracle:
    def __init__(
        self,
        *,
        split_image: bool = False,
        max_image_size: int = 980,
        split_resolutions: list[tuple[int, int]] | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {"split_image": split_image, "max_image_size": max_image_size}
        own = {} if split_resolutions is None else {"split_resolutions": [list(entry) for entry in split_resolutions]}
        self.image_processor = _ImageProcessor(**self.settings, **own)
        self.size = max_image_size
        self.split = split_image
        self.resolutions = self.image_processor.split_resolutions
        self.processor = AriaProcessor(self.image_processor, make_tokenizer([], image_token="<image>"))

    def _cut(self, height: int, width: int) -> int:
        """Crops of the real get_image_patches."""
        return len(
            self.image_processor.get_image_patches(empty_image(height, width, 1), self.resolutions, self.size, None)
        )

    def _search(self, height: int, width: int) -> tuple[int, int]:
        if not self.split:
            return 1, 1
        canvas = select_best_resolution((height, width), self.resolutions)
        rows, cols = (len(range(0, extent, self.size)) for extent in canvas)
        return rows, cols

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        counted = self.processor._get_num_multimodal_tokens(sizes.tolist(), **self.settings)
        rows = []
        columns = (counted.num_image_patches, counted.num_image_tokens)
        for i, (size, crops, tokens) in enumerate(zip(sizes.tolist(), *columns, strict=True)):
            grid = self._search(*size)
            assert crops == grid[0] * grid[1]
            assert i % WHOLE_CUT or not self.split or crops == self._cut(*size)
            rows.append((*grid, crops, tokens))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image; the text is tokenised."""
        image_processor = AriaImageProcessor(split_resolutions=self.resolutions)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt", **self.settings)
        assert int(out["num_crops"]) == len(out["pixel_values"])
        text = self.processor.replace_image_token(out, 0)
        return len(out["pixel_values"]), count(self.processor.tokenizer, text)
