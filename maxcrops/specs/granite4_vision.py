"""Granite 4 Vision: LLaVA-NeXT's cut; its projector leaves a fraction of each crop's features.

The image processor is LLaVA-NeXT's. downsample_rate ("1/2", "4/8") shortens the side of a crop's features before they
are stitched, unpadded and given a newline a row; here it is the pooling. For q features a side::

    q * q + R * (C + 1)

Here the knob, image_grid_pinpoints, is the list itself: max_crops leaves out the entries with more local crops.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from maxcrops.specs._family import Family, Read, pairs, positive, square
from maxcrops.specs._spec import BestResolution, CropRule, Source, Spec, Stitched

_CHECKED = "2026-11-25"

SPEC = Spec(
    key="granite4_vision",
    family="granite4_vision",
    description="Granite 4 Vision: best of a list of resolutions, padding dropped, fewer features a crop",
    grid=BestResolution(resolutions=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))),
    crop=CropRule(crop_size=224, patch_size=32, fit="letterbox_ceil"),
    tokens=Stitched(col_tokens=True, low_res_col_tokens=False, unpad="by_ratio"),
    knob="image_grid_pinpoints",
    aliases={"image_grid_pinpoints": "resolutions"},
    choices={
        "vision_feature_select_strategy": {
            "full": {"drop_class_token": False},
            "default": {"drop_class_token": True},
        }
    },
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
        Read("resolutions", "image_processor", "image_grid_pinpoints", pairs),
        Read("crop_size", "image_processor", "crop_size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("patch_size", "processor", "patch_size", positive),
        Read("pooling", "config", "downsample_rate", _pooling),
        Read("pooling", "processor", "downsample_rate", _pooling),
        Read("num_additional_image_tokens", "processor", "num_additional_image_tokens"),
        Read("vision_feature_select_strategy", "processor", "vision_feature_select_strategy"),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_require_whole,
)
