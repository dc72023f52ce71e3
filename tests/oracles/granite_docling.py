"""GraniteDoclingImageProcessor whole, and GraniteDoclingProcessor's token string."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.models.granite_docling.image_processing_granite_docling import GraniteDoclingImageProcessor
from transformers.models.granite_docling.processing_granite_docling import GraniteDoclingProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

_TAGS = [f"<row_{row}_col_{col}>" for row in range(1, 17) for col in range(1, 17)]
_SPECIALS = ["<fake_token_around_image>", "<image>", "<global-img>", *_TAGS]


class _ImageProcessor(GraniteDoclingImageProcessor, CheapResize):
    pass


class Oracle:
    def __init__(self, *, size: int = 512, image_seq_len: int = 64, **settings: Any) -> None:
        self.settings = {"size": {"height": size, "width": size}, **settings}
        self.image_processor = _ImageProcessor(**self.settings)
        self.image_seq_len = image_seq_len
        self.processor = self._make_processor(self.image_processor)
        self._tokens = cache(self._count_tokens)

    def _make_processor(self, image_processor: GraniteDoclingImageProcessor) -> GraniteDoclingProcessor:
        return GraniteDoclingProcessor(image_processor, make_tokenizer(_SPECIALS), image_seq_len=self.image_seq_len)

    def _count_tokens(self, rows: int, cols: int) -> int:
        inputs = {"rows": [[rows]], "cols": [[cols]]}
        if self.image_processor.fine_route:
            inputs["tile_fine_mask"] = []
        return count(self.processor.tokenizer, self.processor.replace_image_token(inputs, 0))

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the whole image processor."""
        out = self.image_processor.preprocess(
            empty_image(height, width, 3), input_data_format="channels_first", return_tensors="pt"
        )
        assert ("tile_fine_mask" in out) == self.image_processor.fine_route
        [[rows]], [[cols]] = out["rows"], out["cols"]
        return rows, cols, out["pixel_values"].shape[1]

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all, the whole image processor on a tenth."""
        rows = []
        for at, (height, width) in enumerate(sizes.tolist()):
            grid = self.image_processor.get_tile_grid(height, width)
            crops = self.image_processor.get_number_of_image_patches(height, width)
            assert at % 10 or (*grid, crops) == self._cut(height, width), (height, width)
            rows.append((*grid, crops, self._tokens(*grid)))
        return answers(rows)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of the whole processor, with real pixel values of a black image."""
        processor = self._make_processor(GraniteDoclingImageProcessor(**self.settings))
        out = processor(images=[Image.new("RGB", (width, height))], text="<image>", return_tensors="pt")
        assert out["pixel_attention_mask"].all()
        counted = processor._get_num_multimodal_tokens([(height, width)])
        assert counted.num_image_tokens == [out["input_ids"].shape[1]]
        return out["pixel_values"].shape[1], out["input_ids"].shape[1]
