"""InternVL by its own code, before its port to transformers: the same cut, numbers in config.json.

The grid of nearest aspect ratio, stretched; a thumbnail follows when there is more than one crop::

    2 + 256 * (n + 1)     or 258 for one crop

The defaults are those of the code that its model cards give for inference (load_image: 448 px, 1 to 12 crops and a
thumbnail); its configuration class has 6 crops, and neither dynamic_image_size nor use_thumbnail.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, flag, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_CROPPED = ClosestRatio(max_crops=12, min_crops=1)

SPEC = Spec(
    key="internvl_chat",
    family="internvl_chat",
    description="InternVL 1.5 to 3.5 by its own code: grid of nearest aspect ratio, thumbnail last",
    grid=_CROPPED,
    crop=CropRule(
        crop_size=448,
        patch_size=14,
        pooling=(2, 2),
        global_crop="when_split",
        global_position="last",
    ),
    tokens=Tiled(tokens_per_crop=256, image_extra_tokens=2),
    knob="max_dynamic_patch",
    aliases={
        "max_dynamic_patch": "max_crops",
        "min_dynamic_patch": "min_crops",
        "max_num": "max_crops",
        "min_num": "min_crops",
        "force_image_size": "crop_size",
    },
    choices={
        "dynamic_image_size": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=1, cols=1)}},
        "use_thumbnail": {"true": {"global_crop": "when_split"}, "false": {"global_crop": "never"}},
    },
    sources=(
        Source(
            "cutting",
            "https://github.com/OpenGVLab/InternVL, internvl_chat/internvl/train/dataset.py (dynamic_preprocess)",
            _CHECKED,
        ),
        Source(
            "tokens",
            "https://github.com/OpenGVLab/InternVL, internvl_chat/internvl/model/internvl_chat/"
            "modeling_internvl_chat.py (chat, num_image_token)",
            _CHECKED,
        ),
    ),
    caveats=(
        "dynamic_preprocess takes its numbers from its caller, not from the folder: a call with another max_num than"
        " max_dynamic_patch cuts otherwise.",
        "Its image side and patch must make an even number of patches: the pixel shuffle joins 2 x 2 of them.",
    ),
)


def whole_factor(ratio: Any) -> tuple[int, int]:
    """downsample_ratio as pooling: 0.5 joins 2 x 2 patches."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1 or 1 / ratio % 1:
        raise ValueError("it must be 1 over a whole number")
    return int(1 / ratio), int(1 / ratio)


def tokens_of_crop(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """num_image_token = int((image size // patch size)^2 * downsample_ratio^2)."""
    patches = read.get("crop_size", defaults["crop_size"]) // read.get("patch_size", defaults["patch_size"])
    read["tokens_per_crop"] = patches**2 // read.get("pooling", defaults["pooling"])[0] ** 2
    return read


READS = (
    Read("dynamic_image_size", "config", "dynamic_image_size", flag),
    Read("use_thumbnail", "config", "use_thumbnail", flag),
    Read("max_crops", "config", "max_dynamic_patch", positive),
    Read("min_crops", "config", "min_dynamic_patch", positive),
    Read("crop_size", "config", "vision_config.image_size", square),
    Read("crop_size", "config", "force_image_size", square),
    Read("patch_size", "config", "vision_config.patch_size", square),
    Read("pooling", "config", "downsample_ratio", whole_factor),
    Read("max_sequence_length", "config", "llm_config.max_position_embeddings", positive),
)

FAMILY = Family(
    spec=SPEC,
    model_types=("internvl_chat",),
    reads=READS,
    derive=tokens_of_crop,
    checkpoints={
        "internvl3.5-8b": Checkpoint(
            repositories=("OpenGVLab/InternVL3_5-8B",),
            where="https://huggingface.co/OpenGVLab/InternVL3_5-8B, config.json",
            checked=f"{_CHECKED}, but for use_thumbnail",
        ),
    },
)
