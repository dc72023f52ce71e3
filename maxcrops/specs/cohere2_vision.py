"""Cohere2 Vision (Command A Vision): the grid that enlarges the image least, every crop the same number of tokens.

The image is stretched to the grid; a thumbnail follows when there is more than one crop, and a line break ends each
crop::

    2 + 257 * (n + 1)     or 259 for one crop

256 is 16 x 16: what the image processor calls ``patch_size`` is the tokens along a side of a crop.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, flag, positive, square
from maxcrops.specs._rules import CropRule, Fixed, ScaleFit, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_CROPPED = ScaleFit(max_crops=12)

SPEC = Spec(
    key="cohere2_vision",
    family="cohere2_vision",
    description="Cohere2 Vision: least enlargement, thumbnail last",
    grid=_CROPPED,
    crop=CropRule(
        crop_size=512,
        patch_size=16,
        pooling=(2, 2),
        global_crop="when_split",
        global_position="last",
    ),
    tokens=Tiled(tokens_per_crop=256, crop_extra_tokens=1, global_extra_tokens=1, image_extra_tokens=2),
    knob="max_patches",
    aliases={"max_patches": "max_crops", "size": "crop_size"},
    choices={"crop_to_patches": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=1, cols=1)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/cohere2_vision/image_processing_cohere2_vision.py and"
            " processing_cohere2_vision.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "The image processor's patch_size is no ViT patch: its square is the number of tokens of a crop.",
        "min_patches is accepted and has no effect.",
    ),
)


def _tokens(side: Any) -> int:
    return positive(side) ** 2


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Cohere2VisionProcessor",),
    model_types=("cohere2_vision",),
    image_processor_types=("Cohere2VisionImageProcessor", "Cohere2VisionImageProcessorFast"),
    reads=(
        Read("max_crops", "image_processor", "max_patches"),
        Read("crop_to_patches", "image_processor", "crop_to_patches", flag),
        Read("crop_size", "image_processor", "size", square),
        Read("tokens_per_crop", "image_processor", "patch_size", _tokens),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("pooling", "config", "downsample_factor", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "command-a-vision-07-2025": Checkpoint(
            repositories=("CohereLabs/command-a-vision-07-2025",),
            where="https://huggingface.co/mlx-community/command-a-vision-07-2025-4bit, preprocessor_config.json:"
            " a copy",
            checked=f"{_CHECKED}, by that copy",
        ),
    },
)
