"""LLaVA-OneVision: LLaVA-NeXT's cut with a longer list of resolutions, and a map that is scaled down when too large.

The best of 36 resolutions is found, the image letterboxed onto it and cut; the crops' features are stitched, the rows
and columns of padding dropped. A map of more than max_map_crops crops' features (anyres_max_9: 9) by a factor s > 1.1
a side is interpolated to R // s x C // s; only the tokens are fewer then, not the crops. A newline ends each row::

    729 + R * (C + 1)

Here the knob, image_grid_pinpoints, is the list itself: max_crops leaves out the entries with more local crops.
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Checkpoint, Family, Read, pairs, positive, square
from maxcrops.specs._rules import BestResolution, CropRule, Stitched
from maxcrops.specs._spec import Source
from maxcrops.specs.llava_next import FAMILY as LLAVA_NEXT

_CHECKED = "2026-11-25"
_ASPECT_RATIO = "anyres_max_"

SPEC = replace(
    LLAVA_NEXT.spec,
    key="llava_onevision",
    family="llava_onevision",
    description="LLaVA-OneVision: best of 36 resolutions, padding dropped, at most about 9 crops' tokens",
    grid=BestResolution(resolutions=tuple((384 * rows, 384 * cols) for rows in range(1, 7) for cols in range(1, 7))),
    crop=CropRule(crop_size=384, patch_size=14, fit="letterbox_ceil"),
    tokens=Stitched(col_tokens=True, low_res_col_tokens=False, unpad="by_ratio", max_map_crops=9),
    aliases={"image_grid_pinpoints": "resolutions", "size": "crop_size"},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/llava_onevision/image_processing_llava_onevision.py,"
            " processing_llava_onevision.py and configuration_llava_onevision.py (the encoder's patch size)",
            _CHECKED,
        ),
    ),
    caveats=(
        "In a sample of several images none is cut: each is padded to a square and costs 730 tokens. The numbers here"
        " are those of one image a sample.",
        "anyres_max_9 limits the tokens, not the crops: the vision encoder sees up to 37.",
        "The class default names no num_image_tokens; the processor takes its square root for the features of a crop's"
        " side, 27 in the published checkpoints. Here it is the crop size by the patch size.",
        "A per-call image_grid_pinpoints changes the pixels, not the number of tokens.",
        "_get_num_multimodal_tokens reports one crop for every image.",
    ),
)


def _max_map_crops(value: object) -> int:
    """9 of anyres_max_9; the processor fails on an aspect ratio without a number."""
    number = value.removeprefix(_ASPECT_RATIO) if isinstance(value, str) else ""
    if not number.isdecimal():
        raise ValueError(f"it must be {_ASPECT_RATIO} and a number")
    return positive(int(number))


FAMILY = Family(
    spec=SPEC,
    processor_classes=("LlavaOnevisionProcessor",),
    model_types=("llava_onevision",),
    image_processor_types=(
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionImageProcessorFast",
        "LlavaOnevisionImageProcessorPil",
    ),
    reads=(
        Read("resolutions", "image_processor", "image_grid_pinpoints", pairs),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_map_crops", "config", "vision_aspect_ratio", _max_map_crops),
        Read("max_map_crops", "processor", "vision_aspect_ratio", _max_map_crops),
        Read("vision_feature_select_strategy", "processor", "vision_feature_select_strategy"),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "llava-onevision-qwen2-7b-ov": Checkpoint(
            repositories=("llava-hf/llava-onevision-qwen2-7b-ov-hf",),
            where="https://huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf, preprocessor_config.json",
            checked="unverified: taken to be the class defaults",
        ),
    },
)
