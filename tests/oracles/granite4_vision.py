"""LlavaNextImageProcessor's cut, which Granite 4 Vision uses, and Granite4VisionProcessor's number of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.image_processing_utils import select_best_resolution
from transformers.models.granite4_vision.processing_granite4_vision import Granite4VisionProcessor

from oracles import Answers, answers, llava_next
from oracles.tokenizers import make_tokenizer

WHOLE_CUT = 10
"""Every so many-th image is cut with all of the real code, the others with its search."""


class Oracle(llava_next.Oracle):
    def __init__(
        self,
        *,
        size: int,
        pinpoints: list[tuple[int, int]],
        patch_size: int,
        downsample_rate: str | None = None,
        strategy: str = "full",
        additional_tokens: int = 0,
    ) -> None:
        super().__init__(size=size, pinpoints=pinpoints)
        self.processor: Any = Granite4VisionProcessor(
            self.image_processor,
            make_tokenizer([], image_token="<image>"),
            patch_size=patch_size,
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=additional_tokens,
            downsample_rate=downsample_rate,
        )

    def _search(self, height: int, width: int) -> tuple[int, int, int]:
        canvas = select_best_resolution((height, width), self.pinpoints)
        rows, cols = (len(range(0, extent, self.size)) for extent in canvas)
        return rows, cols, rows * cols + 1

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        counted = self.processor._get_num_multimodal_tokens(sizes.tolist())
        rows = []
        for i, (size, tokens) in enumerate(zip(sizes.tolist(), counted.num_image_tokens, strict=True)):
            found = self._search(*size)
            assert i % WHOLE_CUT or found == self._cut(*size)
            rows.append((*found, tokens))
        return answers(rows)
