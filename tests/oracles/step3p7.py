"""Step3p7ImageProcessor's plan and cut, and Step3p7Processor's token string."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.image_utils import SizeDict
from transformers.models.step3p7.image_processing_step3p7 import Step3p7ImageProcessor
from transformers.models.step3p7.processing_step3p7 import Step3p7Processor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer

_SPECIALS = ["<im_patch>", "<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>"]


class _ImageProcessor(Step3p7ImageProcessor, CheapResize):
    def pad(self, images: list[torch.Tensor], pad_size: SizeDict, **kwargs: Any) -> list[torch.Tensor]:
        return [empty_image(pad_size.height, pad_size.width, *image.shape[:-2]) for image in images]


class Oracle:
    def __init__(self, *, size: int = 728, **settings: Any) -> None:
        self.settings = {"size": {"height": size, "width": size}, **settings}
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = Step3p7Processor(self.image_processor, make_tokenizer(_SPECIALS))
        self._answers: dict[tuple[int, int], tuple[int, int]] = {}

    def _count_tokens(self, image_inputs: Any) -> int:
        text, token = self.processor.replace_image_token(image_inputs, 0), self.processor.image_token
        return text.count(token) + count(self.processor.tokenizer, text.replace(token, ""))

    def _plan(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols) of the real _plan_patches."""
        p = self.image_processor
        cols, rows = p._plan_patches(width, height, p.size["height"], p.patch_size)[3:5]
        return rows, cols

    def _cut(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of the real _preprocess."""
        p = self.image_processor
        settings = {
            name: getattr(p, name)
            for name in (
                "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample", "patch_size",
            )
        }  # fmt: skip
        side = p.size["height"]
        out = p._preprocess(
            [empty_image(height, width, 3)], size=SizeDict(height=side, width=side), disable_grouping=None,
            return_tensors=None, **settings,
        )  # fmt: skip
        crops = len(out["pixel_values"]) + len(out.get("pixel_values_local", ()))
        return crops, self._count_tokens(out)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The plan of all; every fortieth is cut as well, and the first of each grid."""
        rows = []
        for at, ((height, width), refused) in enumerate(zip(sizes.tolist(), self.refused(sizes).tolist(), strict=True)):
            if refused:
                rows.append((-1, -1, -1, -1))
                continue
            grid = self._plan(height, width)
            if at % 40 == 0 or grid not in self._answers:
                found = self._cut(height, width)
                assert self._answers.setdefault(grid, found) == found, (height, width)
            rows.append((*grid, *self._answers[grid]))
        return answers(rows)

    def refused(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """A side that is scaled down to nothing: the plan divides by it."""
        found = []
        for height, width in sizes.tolist():
            try:
                self._plan(height, width)
                found.append(False)
            except ZeroDivisionError:
                found.append(True)
        return np.array(found, dtype=np.bool_)

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of real pixel values of a black image."""
        image_processor = Step3p7ImageProcessor(**self.settings)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        out = image_processor.preprocess(image, input_data_format="channels_last", return_tensors="pt")
        crops = len(out["pixel_values"]) + len(out.get("pixel_values_local", ()))
        return crops, self._count_tokens(out)
