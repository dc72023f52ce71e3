"""Gemma 3: the whole image in one crop, and, with pan and scan, slices of a long image along its long side.

Only an image whose sides differ by a ratio of min_ratio or more is sliced, into round(ratio) slices of min_slice_size
px at least and max_crops at most. Each is stretched to a crop, as the whole image, which comes first. A block of 256
tokens stands between a start and an end token and two double newlines::

    260 * (n + 1)

The sentence that the processor writes around the blocks of a sliced image is text and not counted.
"""

from __future__ import annotations

import math
from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, positive, square
from maxcrops.specs._rules import CropRule, Fixed, PanAndScan, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_WHOLE = Fixed(rows=0, cols=0)

SPEC = Spec(
    key="gemma3",
    family="gemma3",
    description="Gemma 3: the whole image; pan and scan adds slices of long images",
    grid=_WHOLE,
    crop=CropRule(crop_size=224, patch_size=16),
    tokens=Tiled(tokens_per_crop=256, crop_extra_tokens=4, global_extra_tokens=4),
    knob="pan_and_scan_max_num_crops",
    aliases={
        "pan_and_scan_max_num_crops": "max_crops",
        "pan_and_scan_min_crop_size": "min_slice_size",
        "pan_and_scan_min_ratio_to_activate": "min_ratio",
        "size": "crop_size",
        "image_seq_length": "tokens_per_crop",
    },
    choices={"do_pan_and_scan": {"false": {"grid": _WHOLE}, "true": {"grid": PanAndScan(max_crops=4)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/gemma3/image_processing_gemma3.py, processing_gemma3.py and"
            " siglip/configuration_siglip.py (patches)",
            _CHECKED,
        ),
    ),
    caveats=(
        "Around the blocks of a sliced image the processor writes a sentence of 15 English words, with spaces between"
        " blocks: 'Here is the original image ... and here are some crops to help you see better ...'. It is text and"
        " not counted here; the tokenizer tells what it costs.",
        "A double newline counts as one token, as in Gemma's tokenizer.",
        "The processor sets do_pan_and_scan and its three numbers in every call (off, 4, 256 and 1.2), whatever the"
        " folder's configuration says; a call's own settings go first.",
        "_get_num_multimodal_tokens reports 256 tokens and one crop for every image.",
        "With a pan_and_scan_min_crop_size far below 256 the last slice of a long image can be empty; transformers then"
        " fails.",
        "The image processor's class default is a crop of 224 px; published checkpoints set 896.",
    ),
)


def _pooled_to_tokens(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The projector pools a crop's patches to the square root of its tokens a side."""
    values = {**defaults, **read}
    side = values["crop_size"] // values["patch_size"] // math.isqrt(values["tokens_per_crop"])
    return {**read, "pooling": (side, side)} if side > 1 else read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Gemma3Processor",),
    model_types=("gemma3",),
    image_processor_types=("Gemma3ImageProcessor", "Gemma3ImageProcessorFast", "Gemma3ImageProcessorPil"),
    reads=(
        Read("crop_size", "config", "vision_config.image_size", square),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("tokens_per_crop", "config", "mm_tokens_per_image", positive),
        Read("tokens_per_crop", "processor", "image_seq_length", positive),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_pooled_to_tokens,
    checkpoints={
        "gemma-3-4b-it": Checkpoint(
            repositories=("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it"),
            where="https://huggingface.co/google/gemma-3-4b-it, preprocessor_config.json and config.json",
            checked="unverified: crops of 896 px in patches of 14 are from memory",
            changes={"crop_size": 896, "patch_size": 14, "pooling": (4, 4)},
            unverified=("crop_size", "patch_size"),
        ),
    },
)
