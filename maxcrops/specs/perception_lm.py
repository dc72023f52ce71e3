"""PerceptionLM: the canvas that enlarges the image most, and a thumbnail for every image.

Of the canvases that hold the image unscaled the one in which its short side becomes longest, the later of equal ones;
where none holds it, the nearest ratio from inside. The image is stretched to it, so nearly every image gets close to
max_num_tiles crops, however small it is. The thumbnail comes first, beside a single crop too::

    256 * (n + 1)
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, positive
from maxcrops.specs._rules import CropRule, Fixed, LargestCanvas, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_TILED = LargestCanvas(max_crops=36)

SPEC = Spec(
    key="perception_lm",
    family="perception_lm",
    description="PerceptionLM: the canvas that enlarges the image most, thumbnail first",
    grid=_TILED,
    crop=CropRule(crop_size=448, patch_size=14, pooling=(2, 2)),
    tokens=Tiled(tokens_per_crop=256),
    knob="max_num_tiles",
    aliases={"max_num_tiles": "max_crops", "tile_size": "crop_size", "pooling_ratio": "pooling"},
    choices={"vision_input_type": {"thumb+tile": {"grid": _TILED}, "vanilla": {"grid": Fixed(rows=0, cols=0)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/perception_lm/image_processing_perception_lm.py and"
            " processing_perception_lm.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "Only the image processor's own max_num_tiles counts: one above 1 in a call is ignored.",
        "Any vision_input_type but thumb+tile means one crop and no tiles; it is called vanilla here.",
        "The class default names no patch size; published checkpoints have 14.",
    ),
)


def _tokens_follow(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """Tokens of a crop: whole patches by whole pooled features."""
    values = {**defaults, **read}
    side = values["crop_size"] // values["patch_size"] // values["pooling"][0]
    return {**read, "tokens_per_crop": side * side}


def _input_type(value: object) -> str:
    return "thumb+tile" if value == "thumb+tile" else "vanilla"


FAMILY = Family(
    spec=SPEC,
    processor_classes=("PerceptionLMProcessor",),
    model_types=("perception_lm",),
    image_processor_types=("PerceptionLMImageProcessor", "PerceptionLMImageProcessorFast"),
    reads=(
        Read("max_crops", "image_processor", "max_num_tiles"),
        Read("crop_size", "image_processor", "tile_size", positive),
        Read("vision_input_type", "image_processor", "vision_input_type", _input_type),
        Read("patch_size", "processor", "patch_size", positive),
        Read("pooling", "config", "projector_pooling_ratio", both_sides),
        Read("pooling", "processor", "pooling_ratio", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_tokens_follow,
    checkpoints={
        "perception-lm-1b": Checkpoint(
            repositories=("facebook/Perception-LM-1B",),
            where="https://huggingface.co/facebook/Perception-LM-1B, preprocessor_config.json",
            checked="unverified: taken to be the class defaults",
        ),
    },
)
