"""Granite 4 Vision: LLaVA-NeXT's cut; its projector leaves a fraction of each crop's features.

The image processor is LLaVA-NeXT's. downsample_rate ("1/2", "4/8") shortens the side of a crop's features before they
are stitched, unpadded and given a newline a row; here it is the pooling. For q features a side::

    q * q + R * (C + 1)

Here the knob, image_grid_pinpoints, is the list itself: max_crops leaves out the entries with more local crops.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from maxcrops.specs._family import Family, Read
from maxcrops.specs._rules import CropRule
from maxcrops.specs._spec import Source
from maxcrops.specs.llava_next import FAMILY as LLAVA_NEXT

_CHECKED = "2026-11-25"

SPEC = replace(
    LLAVA_NEXT.spec,
    key="granite4_vision",
    family="granite4_vision",
    description="Granite 4 Vision: best of a list of resolutions, padding dropped, fewer features a crop",
    crop=CropRule(crop_size=224, patch_size=32, fit="letterbox_ceil"),
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/llava_next/image_processing_llava_next.py (the image processor it uses)",
            _CHECKED,
        ),
        Source(
            "tokens and the encoder's defaults",
            "transformers 5.23.0, models/granite4_vision/processing_granite4_vision.py and"
            " configuration_granite4_vision.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "The class defaults do not fit each other: crops of 224 px from resolutions made for 336, 32 px patches of"
        " CLIP's configuration, no downsample_rate. A folder states its own.",
        "A per-call image_grid_pinpoints changes the pixels, not the number of tokens.",
        "_get_num_multimodal_tokens reports one crop for every image.",
    ),
)


def _pooling(rate: object) -> tuple[int, int]:
    """(k, k) of the rate 1/k."""
    fraction = Fraction(rate) if isinstance(rate, str) else Fraction(0)
    if fraction.numerator != 1:
        raise ValueError("only rates of one k-th are known, as in 1/2 or 4/8")
    return fraction.denominator, fraction.denominator


def _require_whole(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The projector's windows must fill a crop's features; the processor would truncate."""
    values = {**defaults, **read}
    side, pooling = values["crop_size"] // values["patch_size"], values["pooling"][0]
    if side % pooling:
        raise ValueError(f"downsample_rate 1/{pooling} does not divide a side of {side} patches")
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Granite4VisionProcessor",),
    model_types=("granite4_vision",),
    reads=(
        *LLAVA_NEXT.reads,
        Read("pooling", "config", "downsample_rate", _pooling),
        Read("pooling", "processor", "downsample_rate", _pooling),
    ),
    derive=_require_whole,
)
