"""Cohere2VisionImageProcessor whole, and Cohere2VisionProcessor's token string."""

from __future__ import annotations

from typing import Any

from transformers.models.cohere2_vision import image_processing_cohere2_vision as upstream
from transformers.models.cohere2_vision.processing_cohere2_vision import Cohere2VisionProcessor

from oracles import got_ocr2
from oracles.tokenizers import make_tokenizer


class _ImageProcessor(upstream.Cohere2VisionImageProcessor, got_ocr2.NotingResize):
    pass


class Oracle(got_ocr2.Oracle):
    image_processor_class = upstream.Cohere2VisionImageProcessor
    cheap_class = _ImageProcessor
    image_token = "<image>"
    search = staticmethod(upstream.get_optimal_tiled_canvas)

    def _make_processor(self, image_processor: Any, *, side: int = 16) -> Any:
        """`side`, tokens a side of a crop, is what the image processor calls patch_size."""
        named = {
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "image_token": "<image>",
            "img_line_break_token": "<line-break>",
        }
        image_processor.patch_size = side
        return Cohere2VisionProcessor(image_processor, make_tokenizer([], **named))

    def _expansion(self, crops: int) -> str:
        return self.processor.replace_image_token({"num_patches": [crops]}, 0)
