"""Molmo2: Molmo's cut with crops of 378 px, pooled over the stitched map.

27 patches a side are odd, so pooling rounds the stitched map up, R = ceil((19 rows + 8) / 2), and the canvas is
stretched to, not letterboxed. Column tokens in the low-resolution view are printed by the class default, not by the
published checkpoints::

    [14 * (14 + low_res_col) + 2] + [R * (C + 1) + 2]

Variants: ``transformers`` (and the hub's code) leaves an image with a side under 112 px unsplit; the ``training``
repository clamps the reduced side to 1 px and splits along the other side.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, pair, positive, square, three_numbers
from maxcrops.specs._rules import CropRule, PixelRule, ScaleFit, Stitched
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-24"

SPEC = Spec(
    key="molmo2",
    family="molmo2",
    description="Molmo2: overlapping crops of 378 px, pooled across crops",
    grid=ScaleFit(max_crops=8),
    crop=CropRule(crop_size=378, patch_size=14, pooling=(2, 2), overlap_margins=(4, 4)),
    tokens=Stitched(
        col_tokens=True,
        low_res_col_tokens=True,
        start_end_tokens=2,
        low_res_start_end_tokens=2,
        pool_across_crops=True,
    ),
    pixels=PixelRule(
        resize="bilinear_rounded",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        pack="token_pooling",
    ),
    knob="max_crops",
    aliases={
        "size": "crop_size",
        "pooling_size": "pooling",
        "image_use_col_tokens": "col_tokens",
        "use_single_crop_col_tokens": "low_res_col_tokens",
    },
    choices={
        "variant": {
            "transformers": {"clamp_reduced_sides": False},
            "training": {"clamp_reduced_sides": True},
        }
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/molmo2/image_processing_molmo2.py and processing_molmo2.py",
            _CHECKED,
        ),
        Source("variant training", "allenai/molmo2, the training repository", _CHECKED),
    ),
    caveats=(
        "An image with a side under 112 px is one crop in transformers and is split in the training repository.",
        "The class default prints column tokens in the low-resolution view, the published checkpoints do not.",
        "The training collator raises on a sequence that is too long, and only when padding is on.",
    ),
)


def _low_res_follows(defaults: dict[str, object], read: dict[str, object]) -> dict[str, object]:
    """use_single_crop_col_tokens = null means: as in the high-resolution view."""
    if read.get("low_res_col_tokens", True) is None:
        read["low_res_col_tokens"] = read.get("col_tokens", defaults["col_tokens"])
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Molmo2Processor",),
    model_types=("molmo2",),
    image_processor_types=("Molmo2ImageProcessor",),
    training_keys=("use_single_crop_col_tokens", "use_single_crop_start_token"),
    reads=(
        Read("max_crops", "image_processor", "max_crops"),
        Read("overlap_margins", "image_processor", "overlap_margins", pair),
        Read("image_mean", "image_processor", "image_mean", three_numbers),
        Read("image_std", "image_processor", "image_std", three_numbers),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "image_processor", "patch_size", positive),
        Read("pooling", "image_processor", "pooling_size", pair),
        Read("col_tokens", "processor", "image_use_col_tokens"),
        Read("low_res_col_tokens", "processor", "use_single_crop_col_tokens"),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
        Read("max_crops", "training", "max_crops"),
        Read("overlap_margins", "training", "overlap_margins", pair),
        Read("crop_size", "training", "image_default_input_size", square),
        Read("patch_size", "training", "image_patch_size", positive),
        Read("col_tokens", "training", "use_col_tokens"),
        Read("low_res_col_tokens", "training", "use_single_crop_col_tokens"),
        Read("max_sequence_length", "training", "max_sequence_length", positive),
    ),
    training_changes={"variant": "training"},
    derive=_low_res_follows,
    checkpoints={
        key: Checkpoint(
            repositories=(repository,),
            where=f"https://huggingface.co/{repository}, processor_config.json and preprocessor_config.json",
            checked=checked,
            changes={"low_res_col_tokens": False},
        )
        for key, repository, checked in (
            ("molmo2-4b", "allenai/Molmo2-4B", _CHECKED),
            ("molmo2-8b", "allenai/Molmo2-8B", _CHECKED),
            ("molmo2-o-7b", "allenai/Molmo2-O-7B", "unverified: taken to be as its siblings"),
        )
    },
)
