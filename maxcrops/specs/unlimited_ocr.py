"""Unlimited-OCR: DeepSeek-OCR-2's cut with up to 32 tiles of 640 px, their features stitched.

The tiles' features are one map of 10 rows x 10 cols, a newline token ends each of its rows and each of the global
view's 16, and one token separates the two::

    273     or split, 273 + 10 rows * (10 cols + 1)

The tallest grid costs most: 3793 tokens for 32 x 1.
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Family, Read, flag, positive
from maxcrops.specs._rules import ClosestRatio, Fixed, Stitched
from maxcrops.specs._spec import Source
from maxcrops.specs.deepseek_ocr2 import FAMILY as DEEPSEEK_OCR2

_CHECKED = "2026-11-25"
_CROPPED = ClosestRatio(max_crops=32, min_crops=2, split="above_crop")

SPEC = replace(
    DEEPSEEK_OCR2.spec,
    key="unlimited_ocr",
    family="unlimited_ocr",
    description="Unlimited-OCR: tiles of nearest aspect ratio stitched to one map, beside a larger global view",
    grid=_CROPPED,
    crop=replace(DEEPSEEK_OCR2.spec.crop, crop_size=640),
    tokens=Stitched(col_tokens=True, low_res_col_tokens=True, low_res_start_end_tokens=1),
    aliases={**DEEPSEEK_OCR2.spec.aliases, "downsample_ratio": "pooling"},
    choices={"crop_to_patches": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=0, cols=0)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/unlimited_ocr/image_processing_unlimited_ocr.py and"
            " processing_unlimited_ocr.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "An image whose short side the letterbox rounds to 0 px (1 x 2048) raises.",
        "With crop_to_patches=False and a size of 640 px or less the global view is stretched, not letterboxed.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("UnlimitedOcrProcessor",),
    model_types=("unlimited_ocr",),
    image_processor_types=("UnlimitedOcrImageProcessor",),
    reads=(
        Read("crop_to_patches", "image_processor", "crop_to_patches", flag),
        Read("max_crops", "image_processor", "max_patches", positive),
        Read("min_crops", "image_processor", "min_patches", positive),
        *DEEPSEEK_OCR2.reads,
    ),
)
