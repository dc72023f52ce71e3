"""Llama 4: the grid that enlarges the image least, or most, a separator for every crop.

The image is resized with its ratio kept, put at the top left of the canvas and cut; a stretched thumbnail follows
when there is more than one crop. A separator stands between two crops of a row and behind each row, as many as there
are crops::

    147 + 145 * n     or 147 for one crop

144 is a quarter of the crop's 24 x 24 patches. With ``resize_to_max_canvas`` the image is enlarged as far as a grid of
max_patches crops allows.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, flag, positive, square
from maxcrops.specs._rules import CropRule, ScaleFit, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"

SPEC = Spec(
    key="llama4",
    family="llama4",
    description="Llama 4: least enlargement, thumbnail last",
    grid=ScaleFit(max_crops=16),
    crop=CropRule(
        crop_size=336,
        patch_size=14,
        pooling=(2, 2),
        global_crop="when_split",
        global_position="last",
        fit="top_left_no_upscale",
    ),
    # Two of the image's three tokens are start and end; the third stands before the last crop or the only one.
    tokens=Tiled(tokens_per_crop=144, crop_extra_tokens=1, global_extra_tokens=1, image_extra_tokens=2),
    knob="max_patches",
    aliases={"max_patches": "max_crops", "size": "crop_size"},
    choices={
        "resize_to_max_canvas": {
            "false": {"largest_upscaling": False, "fit": "top_left_no_upscale"},
            "true": {"largest_upscaling": True, "fit": "top_left"},
        }
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/llama4/image_processing_llama4.py and processing_llama4.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "The size to resize to is computed in float32 where the image is larger than its canvas, in float64 elsewhere:"
        " 4249 x 607 px becomes 384 px wide, not 383. Grids and tokens do not depend on it.",
        "tokens_per_crop is a number of its own here; the original derives it from the crop's pixels.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The tokens of a crop, as the processor derives them."""
    merged = {**defaults, **read}
    ratio = read.pop("pixel_shuffle_ratio", 0.5)
    patch = read.pop("token_patch_size", 14)
    read["tokens_per_crop"] = (merged["crop_size"] // patch) ** 2 // round(1 / ratio**2)
    return read


def _ratio(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError("it must be a number above 0 and at most 1")
    return float(value)


def _pooling(value: Any) -> tuple[int, int]:
    side = round(1 / _ratio(value))
    return side, side


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Llama4Processor",),
    model_types=("llama4",),
    image_processor_types=("Llama4ImageProcessor", "Llama4ImageProcessorFast"),
    reads=(
        Read("max_crops", "image_processor", "max_patches"),
        Read("resize_to_max_canvas", "image_processor", "resize_to_max_canvas", flag),
        Read("crop_size", "image_processor", "size", square),
        Read("token_patch_size", "processor", "patch_size", positive),
        Read("pixel_shuffle_ratio", "processor", "pixel_shuffle_ratio", _ratio),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("pooling", "config", "vision_config.pixel_shuffle_ratio", _pooling),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_derive,
    checkpoints={
        "llama-4-scout": Checkpoint(
            repositories=("meta-llama/Llama-4-Scout-17B-16E", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
            where="https://huggingface.co/hf-internal-testing/tiny-processor-llama4, preprocessor_config.json, and"
            " https://huggingface.co/LlamaFinetuneGGUF/base_v2, processor_config.json: copies",
            checked=f"{_CHECKED}, by those copies",
        ),
        "llama-4-maverick": Checkpoint(
            repositories=("meta-llama/Llama-4-Maverick-17B-128E", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
            where="https://huggingface.co/meta-llama/Llama-4-Maverick-17B-128E-Instruct, preprocessor_config.json",
            checked="unverified: taken to be as Scout",
        ),
    },
)
