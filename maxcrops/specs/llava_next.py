"""LLaVA-NeXT (1.6): the best of a list of resolutions, stitched tokens without the padding.

The image is letterboxed onto the chosen resolution and cut into crops; the crops' features are stitched, rows and
columns that hold only padding are dropped, and a newline token ends each row. The stretched thumbnail comes first::

    576 + R * (C + 1)

The knob is the list itself, image_grid_pinpoints: max_crops leaves out the entries with more local crops.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, pairs, positive, square
from maxcrops.specs._rules import BestResolution, CropRule, Stitched
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-24"

SPEC = Spec(
    key="llava_next",
    family="llava_next",
    description="LLaVA-NeXT (1.6): best of a list of resolutions, padding dropped",
    grid=BestResolution(resolutions=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))),
    crop=CropRule(crop_size=224, patch_size=14, fit="letterbox_ceil"),
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
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/llava_next/image_processing_llava_next.py and processing_llava_next.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "The class default cuts crops of 224 px from resolutions made for 336: each side then has ceil(side / 224)"
        " crops, but tokens for floor(side / 224) only.",
        "A per-call image_grid_pinpoints changes the pixels, not the number of tokens.",
        "_get_num_multimodal_tokens reports one crop for every image.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("LlavaNextProcessor",),
    model_types=("llava_next",),
    image_processor_types=(
        "LlavaNextImageProcessor",
        "LlavaNextImageProcessorFast",
        "LlavaNextImageProcessorPil",
    ),
    reads=(
        Read("resolutions", "image_processor", "image_grid_pinpoints", pairs),
        Read("crop_size", "image_processor", "crop_size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("patch_size", "processor", "patch_size", positive),
        Read("num_additional_image_tokens", "processor", "num_additional_image_tokens"),
        Read("vision_feature_select_strategy", "processor", "vision_feature_select_strategy"),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "llava-v1.6-mistral-7b": Checkpoint(
            repositories=("llava-hf/llava-v1.6-mistral-7b-hf",),
            where="https://huggingface.co/llava-hf/llava-v1.6-mistral-7b-hf, preprocessor_config.json",
            checked=_CHECKED,
            changes={
                "crop_size": 336,
                "num_additional_image_tokens": 1,
                "vision_feature_select_strategy": "default",
            },
        ),
    },
)
