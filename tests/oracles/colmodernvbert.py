"""Idefics3ImageProcessor, which ColModernVBertProcessor uses, and the latter's token string."""

from __future__ import annotations

from typing import Any

from PIL import Image
from transformers.models.colmodernvbert.processing_colmodernvbert import ColModernVBertProcessor

from oracles import idefics3
from oracles.tokenizers import make_tokenizer


class Oracle(idefics3.Oracle):
    def _make_processor(self, image_seq_len: int) -> Any:
        tokenizer = make_tokenizer(idefics3.SPECIALS)
        return ColModernVBertProcessor(self.image_processor, tokenizer, image_seq_len=image_seq_len)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:  # type: ignore[override]
        """(crops, tokens) of the whole processor, with real pixel values of a black image."""
        self.processor.image_processor = self.image_processor_class(**self.settings)
        out = self.processor(images=[Image.new("RGB", (width, height))], text="<image>", padding=False)
        self.processor.image_processor = self.image_processor
        return out["pixel_values"].shape[1], out["input_ids"].shape[1]
