"""MiniCPM-V 4.6 and 4.7: slices by the image's area and the logarithm of its ratio, every one at its own ratio.

The image itself always comes first, resized to the area of 448 x 448 px at its own ratio; an image of more pixels than
that is sliced too, each slice resized likewise. With q and s the tokens of the image and of a slice, one for each 4 x 4
patches (2 x 2 in downsample mode 4x)::

    5 + q     or sliced, 5 + q + n (s + 2) + (rows - 1)

Three of the 5 number the image (use_image_id).
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, flag, positive
from maxcrops.specs._rules import CropRule, Fixed, LogRatio, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_SLICED = LogRatio(max_crops=9)

SPEC = Spec(
    key="minicpmv4_6",
    family="minicpmv4_6",
    description="MiniCPM-V 4.6: slices of the image's ratio by the logarithm of ratios, whole image first",
    grid=_SLICED,
    crop=CropRule(crop_size=448, patch_size=14, pooling=(4, 4), sizing="area", global_sizing="area"),
    tokens=Tiled(tokens_per_crop=None, crop_extra_tokens=2, row_separator_tokens=1, image_extra_tokens=5),
    knob="max_slice_nums",
    aliases={"max_slice_nums": "max_crops", "scale_resolution": "crop_size"},
    choices={
        "slice_mode": {"true": {"grid": _SLICED}, "false": {"grid": Fixed(rows=0, cols=0)}},
        "downsample_mode": {"16x": {"pooling": (4, 4)}, "4x": {"pooling": (2, 2)}},
        "use_image_id": {"true": {"image_extra_tokens": 5}, "false": {"image_extra_tokens": 2}},
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/minicpmv4_6/image_processing_minicpmv4_6.py and processing_minicpmv4_6.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "No ratio is too thin: an image of 8000 x 1 px is not sliced and costs 721 tokens, where a square costs 69.",
        "Equal errors are decided by the last bit of the platform's logarithm: 1125 x 1125 px is cut in 2 x 3, where"
        " exact arithmetic leaves a tie that 3 x 2 would win.",
        "The number of an image is taken for one token: from the eleventh image of a sample on it is two.",
        "A per-call slice_mode changes the pixels, not the number of tokens: the processor keeps the value that it was"
        " built with.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("MiniCPMV4_6Processor", "MiniCPMV4_7Processor"),
    model_types=("minicpmv4_6", "minicpmv4_7"),
    image_processor_types=("MiniCPMV4_6ImageProcessor", "MiniCPMV4_6ImageProcessorPil"),
    reads=(
        Read("max_crops", "image_processor", "max_slice_nums", positive),
        Read("crop_size", "image_processor", "scale_resolution", positive),
        Read("patch_size", "image_processor", "patch_size", positive),
        Read("slice_mode", "image_processor", "slice_mode", flag),
        Read("downsample_mode", "image_processor", "downsample_mode"),
        Read("use_image_id", "image_processor", "use_image_id", flag),
        Read("use_image_id", "processor", "use_image_id", flag),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "minicpm-v-4.6": Checkpoint(
            repositories=("openbmb/MiniCPM-V-4.6",),
            where="https://huggingface.co/jma-informatique/MiniCPM-V-4.6 (a duplicate), preprocessor_config.json",
            checked=_CHECKED,
        ),
        "minicpm-v-4.7-1b": Checkpoint(
            repositories=("openbmb/MiniCPM-V-4.7-1B",),
            where="transformers 5.23.0, models/minicpmv4_7: the image processor of 4.6, the same tokens",
            checked="unverified: taken to have the class defaults",
        ),
    },
)
