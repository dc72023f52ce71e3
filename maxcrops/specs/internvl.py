"""InternVL: the grid of nearest aspect ratio, every crop the same number of tokens.

Only the ratio of the image counts, except among multiples of one grid: a 4 x 3 pixel image gets twelve crops. The
image is stretched to the grid; a thumbnail follows when there is more than one crop::

    2 + 256 * (n + 1)     or 258 for one crop

256 is the processor's image_seq_length; it is not derived from the crop size.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-24"
_CROPPED = ClosestRatio(max_crops=12, min_crops=1)

SPEC = Spec(
    key="internvl",
    family="internvl",
    description="InternVL 2.5 to 3.5 in transformers: grid of nearest aspect ratio, thumbnail last",
    grid=_CROPPED,
    crop=CropRule(
        crop_size=384,
        patch_size=14,
        pooling=(2, 2),
        global_crop="when_split",
        global_position="last",
    ),
    tokens=Tiled(tokens_per_crop=256, image_extra_tokens=2),
    knob="max_patches",
    aliases={
        "max_patches": "max_crops",
        "min_patches": "min_crops",
        "size": "crop_size",
        "image_seq_length": "tokens_per_crop",
    },
    choices={"crop_to_patches": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=1, cols=1)}}},
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/got_ocr2/image_processing_got_ocr2.py (the image processor it uses)",
            _CHECKED,
        ),
        Source("tokens", "transformers 5.23.0, models/internvl/processing_internvl.py", _CHECKED),
    ),
    caveats=(
        "The image processor's class default is a crop of 384 px, which the model's own 448 px contradicts;"
        " published checkpoints set 448.",
        "The processor turns crop_to_patches on for every call, whatever the folder's configuration says.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("InternVLProcessor",),
    model_types=("internvl",),
    reads=(
        Read("max_crops", "image_processor", "max_patches"),
        Read("min_crops", "image_processor", "min_patches"),
        Read("crop_size", "config", "vision_config.image_size", square),
        Read("crop_size", "image_processor", "size", square),
        Read("tokens_per_crop", "processor", "image_seq_length", positive),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "internvl3-8b": Checkpoint(
            repositories=("OpenGVLab/InternVL3-8B-hf",),
            where="transformers 5.23.0, models/internvl/configuration_internvl.py: image_size 448",
            checked=f"{_CHECKED}, the crop size by the model's configuration only",
            changes={"crop_size": 448},
        ),
    },
)
