"""SmolVLM's classes, which are copies of Idefics3's."""

from __future__ import annotations

from typing import Any

from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from oracles import idefics3
from oracles.cheap_pixels import CheapResize
from oracles.tokenizers import make_tokenizer


class _ImageProcessor(SmolVLMImageProcessor, CheapResize):
    pass


class Oracle(idefics3.Oracle):
    image_processor_class = SmolVLMImageProcessor
    cheap_class = _ImageProcessor

    def _make_processor(self, image_seq_len: int) -> Any:
        tokenizer = make_tokenizer(idefics3.SPECIALS)
        return SmolVLMProcessor(self.image_processor, tokenizer, SmolVLMVideoProcessor(), image_seq_len=image_seq_len)
