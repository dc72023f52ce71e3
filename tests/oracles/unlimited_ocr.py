"""Unlimited-OCR's classes, whose cut is DeepSeek-OCR-2's and whose tokens follow the grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from transformers.models.unlimited_ocr import image_processing_unlimited_ocr as upstream
from transformers.models.unlimited_ocr.processing_unlimited_ocr import UnlimitedOcrProcessor

from oracles import deepseek_ocr2
from oracles.deepseek_ocr2 import NotingResize


class _ImageProcessor(NotingResize, upstream.UnlimitedOcrImageProcessor):
    pass


class Oracle(deepseek_ocr2.Oracle):
    upstream = upstream
    cheap_class = _ImageProcessor
    image_processor_class = upstream.UnlimitedOcrImageProcessor
    processor_class = UnlimitedOcrProcessor

    def _cut(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols) of the real _preprocess."""
        out = self._preprocess(height, width)
        [local], [[cols, rows]] = out["num_local_patches"], out["patches_grid"]
        assert len(out.get("pixel_values_local", ())) == local
        [whole] = out["pixel_values"]
        assert whole.shape[-1] == self._global_side()
        return (rows, cols) if local else (0, 0)

    def _global_side(self) -> int:
        return self.image_processor.size["height"]

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        p = self.image_processor
        if not p.crop_to_patches and self._global_side() <= p.maximum_pad_value:  # stretched, not letterboxed
            return np.zeros(len(sizes), dtype=np.bool_)
        return super().refused(sizes)
