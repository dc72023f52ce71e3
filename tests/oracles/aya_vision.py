"""GotOcr2ImageProcessor, which AyaVisionProcessor uses, and the latter's token string."""

from __future__ import annotations

from typing import Any

from transformers.models.aya_vision.processing_aya_vision import AyaVisionProcessor

from oracles import got_ocr2
from oracles.tokenizers import make_tokenizer

_SPECIALS = [
    "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL",
    *(f"TILE_{number}" for number in range(1, 100)),
]  # fmt: skip


class Oracle(got_ocr2.Oracle):
    image_token = "<image>"

    def _make_processor(self, image_processor: Any, **settings: Any) -> Any:
        return AyaVisionProcessor(image_processor, make_tokenizer(_SPECIALS), **settings)

    def _expansion(self, crops: int) -> str:
        return self.processor.replace_image_token({"num_patches": [crops]}, 0)
