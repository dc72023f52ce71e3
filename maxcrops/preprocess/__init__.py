"""Images to crops, as the models' own processors make them."""

from __future__ import annotations

from maxcrops.preprocess._preprocessor import Batch, ImageFailure, Preprocessor

__all__ = ["Batch", "ImageFailure", "Preprocessor"]
