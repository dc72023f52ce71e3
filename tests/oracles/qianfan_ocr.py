"""GotOcr2ImageProcessor, which QianfanOCRProcessor uses, and the latter's token string."""

from __future__ import annotations

from typing import Any

from transformers.models.qianfan_ocr.processing_qianfan_ocr import QianfanOCRProcessor

from oracles import got_ocr2
from oracles.tokenizers import make_tokenizer


class Oracle(got_ocr2.Oracle):
    image_token = "<image>"

    def _make_processor(self, image_processor: Any, **settings: Any) -> Any:
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        }
        return QianfanOCRProcessor(image_processor, make_tokenizer(["<image>"], **named), **settings)

    def _expansion(self, crops: int) -> str:
        return self.processor.replace_image_token({"num_patches": [crops]}, 0)
