"""MiniCPM-V 2.6 and its relatives by their own code: MiniCPM-V 4.6's slices, 64 tokens each.

The image itself always comes first, resized to the area of 448 x 448 px at its own ratio; an image of more pixels than
that is sliced too. A resampler makes 64 tokens of any size::

    66     or sliced, 66 + 66 n + (rows - 1)

and 3 more that number the image (use_image_id, which published checkpoints set).
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, flag, positive
from maxcrops.specs._rules import CropRule, Fixed, LogRatio, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_SLICED = LogRatio(max_crops=9)

SPEC = Spec(
    key="minicpmv2_6",
    family="minicpmv2_6",
    description="MiniCPM-V 2.6: slices by the logarithm of ratios, 64 tokens each, whole image first",
    grid=_SLICED,
    crop=CropRule(crop_size=448, patch_size=14, sizing="area", global_sizing="area"),
    tokens=Tiled(tokens_per_crop=64, crop_extra_tokens=2, row_separator_tokens=1, image_extra_tokens=2),
    knob="max_slice_nums",
    aliases={
        "max_slice_nums": "max_crops",
        "scale_resolution": "crop_size",
        "image_feature_size": "tokens_per_crop",
    },
    choices={
        "slice_mode": {"true": {"grid": _SLICED}, "false": {"grid": Fixed(rows=0, cols=0)}},
        "use_image_id": {"false": {"image_extra_tokens": 2}, "true": {"image_extra_tokens": 5}},
        "version": {"2.6": {}},
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "https://huggingface.co/openbmb/MiniCPM-V-2_6, image_processing_minicpmv.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "Equal errors are decided by the last bit of the platform's logarithm.",
        "With slice_mode off the image is not resized at all; its ViT patches are then more than counted here.",
        "The number of an image is taken for one token: from the eleventh image of a sample on it is two.",
        "MiniCPM-V 2 and 2.5 have the same classes and another text around their slices.",
    ),
)


def _of_version(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    if "version" not in read:
        raise ValueError("MiniCPM-V's files state no version; 2.6 is known, earlier ones write other tokens")
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("MiniCPMVProcessor", "MiniCPMOProcessor"),
    model_types=("minicpmv", "minicpmo"),
    image_processor_types=("MiniCPMVImageProcessor",),
    reads=(
        Read("version", "config", "version", str),
        Read("version", "image_processor", "version", str),
        Read("max_crops", "image_processor", "max_slice_nums", positive),
        Read("crop_size", "image_processor", "scale_resolution", positive),
        Read("patch_size", "image_processor", "patch_size", positive),
        Read("tokens_per_crop", "image_processor", "image_feature_size", positive),
        Read("slice_mode", "image_processor", "slice_mode", flag),
        Read("use_image_id", "image_processor", "use_image_id", flag),
        Read("max_sequence_length", "config", "max_position_embeddings", positive),
    ),
    derive=_of_version,
    checkpoints={
        "minicpm-v-2.6": Checkpoint(
            repositories=("openbmb/MiniCPM-V-2_6", "openbmb/MiniCPM-V-2_6-int4"),
            where="https://huggingface.co/openbmb/MiniCPM-V-2_6-int4, preprocessor_config.json",
            checked=_CHECKED,
            changes={"use_image_id": "true"},
        ),
        "minicpm-o-2.6": Checkpoint(
            repositories=("openbmb/MiniCPM-o-2_6", "openbmb/MiniCPM-o-2_6-int4"),
            where="https://huggingface.co/openbmb/MiniCPM-o-2_6-int4, preprocessor_config.json",
            checked=f"{_CHECKED}, the image processor's numbers only",
            changes={"use_image_id": "true"},
        ),
    },
)
