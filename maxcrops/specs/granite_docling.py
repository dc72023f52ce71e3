"""Granite Docling: the grid of nearest aspect ratio with at most 16 crops a side, Idefics3's tokens.

The page is stretched to the grid; a thumbnail follows when there is more than one crop. Two tokens announce each crop
and each row of crops ends in a newline, also the row of a page that is one crop::

    67 + rows * (66 cols + 1)     or 67 for one crop

The fine route of the connector (``fine_route``) makes 256 tokens of a crop instead of 64.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Family, Read, both_sides, flag, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_CROPPED = ClosestRatio(max_crops=32, min_crops=1, max_grid_side=16)

SPEC = Spec(
    key="granite_docling",
    family="granite_docling",
    description="Granite Docling: grid of nearest aspect ratio, at most 16 a side, thumbnail last",
    grid=_CROPPED,
    crop=CropRule(
        crop_size=512,
        patch_size=16,
        pooling=(4, 4),
        global_crop="when_split",
        global_position="last",
    ),
    tokens=Tiled(tokens_per_crop=64, crop_extra_tokens=2, row_end_tokens=1, global_extra_tokens=3),
    knob="max_patches",
    aliases={
        "max_patches": "max_crops",
        "min_patches": "min_crops",
        "size": "crop_size",
        "image_seq_len": "tokens_per_crop",
    },
    choices={
        "crop_to_patches": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=1, cols=1)}},
        "fine_route": {
            "false": {"tokens_per_crop": 64, "pooling": (4, 4)},
            "true": {"tokens_per_crop": 256, "pooling": (2, 2)},
        },
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/granite_docling/image_processing_granite_docling.py and"
            " processing_granite_docling.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "Pages that the dense_* settings select get another number of crops; the rule is off by default, and a folder"
        " that turns it on is refused.",
        "With min_patches above max_patches the pixels have a grid and the tokens are those of one crop.",
        "A tokenizer that does not merge two newlines needs one token more for a split page (split_extra_tokens=1).",
        "granite-docling-258M has Idefics3's processor and stands with that family.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """Refuses the rule for dense pages; applies the fine route to numbers that are not the defaults."""
    most, *tests = (read.pop(name, None) for name in ("dense_max_patches", "dense_max_scale", "dense_min_aspect"))
    if most and any(test and test > 0 for test in tests):
        raise ValueError(f"dense_max_patches {most} is not supported: such pages would be counted too low")
    merged = {**defaults, **read}
    if read.get("fine_route") == "true" and (merged["tokens_per_crop"], merged["pooling"]) != (64, (4, 4)):
        del read["fine_route"]
        read["tokens_per_crop"] = 4 * merged["tokens_per_crop"]
        read["pooling"] = tuple(max(side // 2, 1) for side in merged["pooling"])
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("GraniteDoclingProcessor",),
    model_types=("granite_docling",),
    image_processor_types=("GraniteDoclingImageProcessor", "GraniteDoclingImageProcessorPil"),
    reads=(
        Read("max_crops", "image_processor", "max_patches"),
        Read("min_crops", "image_processor", "min_patches"),
        Read("crop_to_patches", "image_processor", "crop_to_patches", flag),
        Read("fine_route", "image_processor", "fine_route", flag),
        Read("crop_size", "image_processor", "size", square),
        Read("tokens_per_crop", "processor", "image_seq_len", positive),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("pooling", "config", "vision_config.scale_factor", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
        Read("dense_max_patches", "image_processor", "dense_max_patches"),
        Read("dense_max_scale", "image_processor", "dense_max_scale"),
        Read("dense_min_aspect", "image_processor", "dense_min_aspect"),
    ),
    derive=_derive,
)
