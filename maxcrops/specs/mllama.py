"""Llama 3.2 Vision (mllama): the grid that enlarges the image least; the image is read by cross-attention.

The image is resized with its ratio kept, put at the top left of the canvas and cut; there is no thumbnail. In the
sequence it is one token. The cross-attention layers read the states of all its crops besides, a class token with
each crop's patches::

    n * ((size / patch) ** 2 + 1)     1601 a crop of 560 px

The encoder always gets max_image_tiles crops, blank ones where the image has fewer; those are masked.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, positive, square
from maxcrops.specs._rules import CropRule, ScaleFit, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"

SPEC = Spec(
    key="mllama",
    family="mllama",
    description="Llama 3.2 Vision: least enlargement, one token, keys for cross-attention",
    grid=ScaleFit(max_crops=4),
    crop=CropRule(
        crop_size=224,
        patch_size=14,
        global_crop="never",
        fit="top_left_no_upscale",
        fills_batch=True,
    ),
    tokens=Tiled(tokens_per_crop=0, image_extra_tokens=1, cross_attention_keys=257),
    knob="max_image_tiles",
    aliases={"max_image_tiles": "max_crops", "size": "crop_size"},
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/mllama/image_processing_mllama.py and processing_mllama.py",
            _CHECKED,
        ),
        Source(
            "keys",
            "transformers 5.23.0, models/mllama/modeling_mllama.py: MllamaVisionModel",
            _CHECKED,
        ),
    ),
    caveats=(
        "The image processor's class default is a crop of 224 px, that of the model's configuration 448 px, for which"
        " the positions are made; published checkpoints set both alike.",
        "cross_attention_keys is a number of its own: it does not follow a changed crop_size.",
        "The model's own max_num_tiles, 4, bounds max_image_tiles.",
        "Masked keys of blank crops are computed and kept in memory all the same.",
    ),
)


def _derive(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **read}
    read["cross_attention_keys"] = (merged["crop_size"] // merged["patch_size"]) ** 2 + 1
    return read


_CROPS_OF_560 = {"crop_size": 560, "cross_attention_keys": 1601}
_CROPS_OF_448 = {"crop_size": 448, "cross_attention_keys": 1025}
_DISCUSSION = "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct/discussions/37"

FAMILY = Family(
    spec=SPEC,
    processor_classes=("MllamaProcessor",),
    model_types=("mllama",),
    image_processor_types=("MllamaImageProcessor", "MllamaImageProcessorFast", "MllamaImageProcessorPil"),
    reads=(
        Read("max_crops", "image_processor", "max_image_tiles"),
        Read("crop_size", "config", "vision_config.image_size", square),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_derive,
    checkpoints={
        key: Checkpoint(
            repositories=(repository,),
            where=f"{where}, preprocessor_config.json: a copy; {_DISCUSSION}",
            checked=f"{_CHECKED}, by that copy",
            changes=changes,
        )
        for key, repository, where, changes in (
            (
                "llama-3.2-11b-vision",
                "meta-llama/Llama-3.2-11B-Vision",
                "https://huggingface.co/shashikanth-a/Llama-3.2-11B-Vision-4bit",
                _CROPS_OF_448,
            ),
            (
                "llama-3.2-11b-vision-instruct",
                "meta-llama/Llama-3.2-11B-Vision-Instruct",
                "https://huggingface.co/EricB/Llama-3.2-11B-Vision-Instruct-UQFF",
                _CROPS_OF_560,
            ),
            (
                "llama-3.2-90b-vision",
                "meta-llama/Llama-3.2-90B-Vision",
                "https://huggingface.co/Sicarius-Prototyping/Llama-3.2-90B-Vision",
                _CROPS_OF_560,
            ),
            (
                "llama-3.2-90b-vision-instruct",
                "meta-llama/Llama-3.2-90B-Vision-Instruct",
                "https://huggingface.co/hfhugs/Llama-3.2-90B-Vision-Instruct",
                _CROPS_OF_560,
            ),
        )
    },
)
