"""Molmo (2024): overlapping crops, stitched tokens.

The image less its margins is fitted to a grid of windows (scale_fit); crops are windows with four patches of margin
on every side, cut from a letterboxed canvas. Each crop is pooled 2 x 2 on its own, shared features are dropped, and a
column token ends each row of the stitched map. The low-resolution crop comes first and has column tokens too::

    [12 * (12 + 1) + 2] + [(8 rows + 4) * (8 cols + 4 + 1) + 2]

Oddities: the reduced side is not clamped, so an image with a side under 112 px is not split, whatever the other side
is (a side of exactly 112 px leaves the choice to the other one).
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, pair, positive, square, three_numbers
from maxcrops.specs._rules import CropRule, Fixed, PixelRule, ScaleFit, Stitched
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-24"
_OVERLAP = ScaleFit(max_crops=12)

SPEC = Spec(
    key="molmo",
    family="molmo",
    description="Molmo, 2024: overlapping crops of 336 px, pooled crop by crop",
    grid=_OVERLAP,
    crop=CropRule(
        crop_size=336,
        patch_size=14,
        pooling=(2, 2),
        overlap_margins=(4, 4),
        fit="letterbox_trunc",
        global_fit="letterbox_trunc",
    ),
    tokens=Stitched(
        col_tokens=True,
        low_res_col_tokens=True,
        start_end_tokens=2,
        low_res_start_end_tokens=2,
    ),
    pixels=PixelRule(
        resize="bilinear_antialias",
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        pack="feature_positions",
    ),
    knob="max_crops",
    aliases={"base_image_input_size": "crop_size", "image_patch_size": "patch_size"},
    choices={
        "crop_mode": {
            "overlap-and-resize-c2": {"grid": _OVERLAP},
            "resize": {"grid": Fixed(rows=0, cols=0)},
        }
    },
    max_sequence_length=4096,
    sources=(
        Source(
            "cutting and tokens",
            "allenai/molmo, olmo/data/model_preprocessor.py: select_tiling, MultiModalPreprocessor",
            _CHECKED,
        ),
        Source(
            "defaults",
            "https://huggingface.co/allenai/Molmo-7B-D-0924, preprocessor_config.json and config.json",
            _CHECKED,
        ),
    ),
    caveats=(
        "An image with a side under 112 px is one crop, whatever its other side.",
        "A ratio beyond the canvas's longer side in pixels leaves a side of 0 px, at which the original fails.",
        "Kept to a width of 1 px (ratios above some 168:1), an image is its first row repeated in the original: torch's"
        " antialiased resize of one column is wrong on the CPU. It is resized here.",
        "Its collator cuts tokens and crops beyond the sequence length without a word.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """image_token_length_h/w, features a side of a crop, states the pooling in another form."""
    lengths = tuple(read.pop(f"image_token_length_{side}", None) for side in "hw")
    col_tokens = read.get("col_tokens")
    if col_tokens is not None:
        read["low_res_col_tokens"] = col_tokens
    merged = {**defaults, **read}
    patches = merged["crop_size"] // merged["patch_size"]
    explicit = tuple(read.pop(f"image_pooling_{side}", None) for side in "hw")
    pooling = list(merged["pooling"])
    for axis, (length, window) in enumerate(zip(lengths, explicit, strict=True)):
        if window is not None:
            pooling[axis] = window
        elif length is not None:
            pooling[axis] = -(-patches // length)
        if length is not None and -(-patches // pooling[axis]) != length:
            name = f"image_token_length_{'hw'[axis]}"
            raise ValueError(f"{name} {length} does not fit {patches} patches a side pooled by {pooling[axis]}")
    read["pooling"] = tuple(pooling)
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("MolmoProcessor",),
    model_types=("molmo",),
    image_processor_types=("MolmoImageProcessor",),
    training_keys=("crop_mode",),
    reads=(
        Read("max_crops", "image_processor", "max_crops"),
        Read("overlap_margins", "image_processor", "overlap_margins", pair),
        Read("image_mean", "image_processor", "image_mean", three_numbers),
        Read("image_std", "image_processor", "image_std", three_numbers),
        Read("crop_size", "image_processor", "base_image_input_size", square),
        Read("patch_size", "image_processor", "image_patch_size", positive),
        Read("image_token_length_h", "image_processor", "image_token_length_h", positive),
        Read("image_token_length_w", "image_processor", "image_token_length_w", positive),
        Read("max_sequence_length", "config", "max_position_embeddings", positive),
        Read("crop_mode", "training", "crop_mode"),
        Read("max_crops", "training", "max_crops"),
        Read("overlap_margins", "training", "overlap_margins", pair),
        Read("crop_size", "training", "base_image_input_size", square),
        Read("crop_size", "training", "vision_backbone.image_default_input_size", square),
        Read("patch_size", "training", "vision_backbone.image_patch_size", positive),
        Read("image_token_length_h", "training", "image_token_length_h", positive),
        Read("image_token_length_w", "training", "image_token_length_w", positive),
        Read("image_pooling_h", "training", "image_pooling_h", positive),
        Read("image_pooling_w", "training", "image_pooling_w", positive),
        Read("col_tokens", "training", "use_col_tokens"),
        Read("max_sequence_length", "training", "max_sequence_length", positive),
    ),
    derive=_derive,
    checkpoints={
        key: Checkpoint(
            repositories=(repository,),
            where=f"https://huggingface.co/{repository}, preprocessor_config.json and config.json",
            checked=checked,
        )
        for key, repository, checked in (
            ("molmo-7b-d", "allenai/Molmo-7B-D-0924", _CHECKED),
            ("molmo-7b-o", "allenai/Molmo-7B-O-0924", _CHECKED),
            ("molmo-72b", "allenai/Molmo-72B-0924", f"{_CHECKED}, config.json only"),
            ("molmoe-1b", "allenai/MolmoE-1B-0924", _CHECKED),
        )
    },
)
