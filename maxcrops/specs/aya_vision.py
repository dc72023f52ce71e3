"""Aya Vision: InternVL's cut with a tag before every crop.

The grid of nearest aspect ratio; the image is stretched to it, and a thumbnail follows when there is more than one
crop. A token announces each crop, TILE_1, TILE_2, ..., and TILE_GLOBAL the thumbnail or the only crop::

    2 + 170 * (n + 1)     or 172 for one crop

169 is the processor's ``(img_size // patch_size) ** 2`` with patches of 28 px; the crop's own size does not enter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, positive, square
from maxcrops.specs._rules import Tiled
from maxcrops.specs._spec import Source
from maxcrops.specs.internvl import FAMILY as INTERNVL

_CHECKED = "2026-11-25"

SPEC = replace(
    INTERNVL.spec,
    key="aya_vision",
    family="aya_vision",
    description="Aya Vision: grid of nearest aspect ratio, a tag for each crop, thumbnail last",
    tokens=Tiled(tokens_per_crop=169, crop_extra_tokens=1, global_extra_tokens=1, image_extra_tokens=2),
    aliases={"max_patches": "max_crops", "min_patches": "min_crops", "size": "crop_size"},
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/got_ocr2/image_processing_got_ocr2.py (the image processor it uses)",
            _CHECKED,
        ),
        Source("tokens", "transformers 5.23.0, models/aya_vision/processing_aya_vision.py", _CHECKED),
    ),
    caveats=(
        "The image processor's class default is a crop of 384 px, while the processor counts the tokens of 364 px;"
        " published checkpoints set 364.",
        "The processor turns crop_to_patches on for every call; the published configuration says false.",
        "A tokenizer splits a tag that it does not know (TILE_13, say) in several tokens: counts are then too low.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The tokens of a crop are stated by three numbers of the processor."""
    named = {"img_size": 364, "token_patch_size": 28, "token_downsample_factor": 1}
    image, patch, factor = (read.pop(name, default) for name, default in named.items())
    read["tokens_per_crop"] = (image // (patch * factor)) ** 2
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("AyaVisionProcessor",),
    model_types=("aya_vision",),
    reads=(
        Read("max_crops", "image_processor", "max_patches"),
        Read("min_crops", "image_processor", "min_patches"),
        Read("crop_size", "image_processor", "size", square),
        Read("img_size", "processor", "img_size", positive),
        Read("token_patch_size", "processor", "patch_size", positive),
        Read("token_downsample_factor", "processor", "downsample_factor", positive),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("pooling", "config", "downsample_factor", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_derive,
    checkpoints={
        "aya-vision-8b": Checkpoint(
            repositories=("CohereLabs/aya-vision-8b", "CohereForAI/aya-vision-8b"),
            where="https://huggingface.co/unsloth/aya-vision-8b, preprocessor_config.json: a copy",
            checked=f"{_CHECKED}, by that copy",
            changes={"crop_size": 364},
        ),
        "aya-vision-32b": Checkpoint(
            repositories=("CohereLabs/aya-vision-32b", "CohereForAI/aya-vision-32b"),
            where="https://huggingface.co/mlx-community/aya-vision-32b-3bit, preprocessor_config.json and"
            " processor_config.json: a copy",
            checked=f"{_CHECKED}, by that copy",
            changes={"crop_size": 364},
        ),
    },
)
