"""LFM2-VL: large images in tiles of nearest aspect ratio, small ones whole and at their own ratio.

An image is split only if both sides, rounded to 32 px, make more pixels than twice what 256 tokens show. Otherwise it
is one crop of its own ratio, scaled until it makes 64 to 256 tokens; the same resized image is the thumbnail of a split
one. With t its tokens::

    2 + t     or split, 2 + 257 n + (1 + t)
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, flag, positive
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_SPLIT = ClosestRatio(max_crops=10, min_crops=2, split="above_area", split_tolerance=2.0)

SPEC = Spec(
    key="lfm2_vl",
    family="lfm2_vl",
    description="LFM2-VL: large images in tiles of nearest aspect ratio, thumbnail of the image's own ratio last",
    grid=_SPLIT,
    crop=CropRule(
        crop_size=512,
        patch_size=16,
        pooling=(2, 2),
        global_position="last",
        global_sizing="features",
        min_features=64,
        max_features=256,
    ),
    tokens=Tiled(
        tokens_per_crop=256,
        crop_extra_tokens=1,
        global_tokens="features",
        image_extra_tokens=2,
        split_extra_tokens=1,
    ),
    knob="max_tiles",
    aliases={
        "max_tiles": "max_crops",
        "min_tiles": "min_crops",
        "tile_size": "crop_size",
        "encoder_patch_size": "patch_size",
        "min_image_tokens": "min_features",
        "max_image_tokens": "max_features",
        "max_pixels_tolerance": "split_tolerance",
    },
    choices={
        "do_image_splitting": {"true": {"grid": _SPLIT}, "false": {"grid": Fixed(rows=0, cols=0)}},
        "use_thumbnail": {
            "true": {"global_crop": "always", "split_extra_tokens": 1},
            "false": {"global_crop": "when_unsplit", "split_extra_tokens": 0},
        },
        "use_image_special_tokens": {
            "true": {"crop_extra_tokens": 1, "image_extra_tokens": 2, "split_extra_tokens": 1},
            "false": {"crop_extra_tokens": 0, "image_extra_tokens": 0, "split_extra_tokens": 0},
        },
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/lfm2_vl/image_processing_lfm2_vl.py and processing_lfm2_vl.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "A side is never less than 32 px, so a very thin image has more than max_image_tokens: 1 x 2000 px makes 358"
        " of them and more patches than its mask covers.",
        "A split image whose thumbnail has more patches than a tile cannot be stacked: 40 x 20000 px raises.",
        "With min_tiles=1 a large image may be one tile, for which the processor counts the thumbnail's tokens.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """Tokens of a tile, which the folder states by their factors."""
    patch, pooling = read.get("patch_size", defaults["patch_size"]), read.get("pooling", defaults["pooling"])[0]
    patches = read.get("crop_size", defaults["crop_size"]) // patch
    read["tokens_per_crop"] = (-(-patches // pooling)) ** 2
    return read


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ValueError("it must be a number above 0")
    return float(value)


def _reads(document: Any) -> tuple[Read, ...]:
    """The first releases kept these keys in processor_config.json itself."""
    return (
        Read("max_crops", document, "max_tiles", positive),
        Read("min_crops", document, "min_tiles", positive),
        Read("crop_size", document, "tile_size", positive),
        Read("patch_size", document, "encoder_patch_size", positive),
        Read("pooling", document, "downsample_factor", both_sides),
        Read("min_features", document, "min_image_tokens", positive),
        Read("max_features", document, "max_image_tokens", positive),
        Read("split_tolerance", document, "max_pixels_tolerance", _number),
        Read("do_image_splitting", document, "do_image_splitting", flag),
        Read("use_thumbnail", document, "use_thumbnail", flag),
    )


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Lfm2VlProcessor",),
    model_types=("lfm2_vl",),
    image_processor_types=("Lfm2VlImageProcessor", "Lfm2VlImageProcessorFast"),
    reads=(
        *_reads("processor"),
        *_reads("image_processor"),
        Read("use_image_special_tokens", "processor", "use_image_special_tokens", flag),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_derive,
    checkpoints={
        "lfm2-vl-1.6b": Checkpoint(
            repositories=("LiquidAI/LFM2-VL-1.6B",),
            where="https://huggingface.co/LiquidAI/LFM2-VL-1.6B, processor_config.json",
            checked="unverified: the first release had max_pixels_tolerance 1.5, later ones 2.0",
            unverified=("split_tolerance",),
        ),
    },
)
