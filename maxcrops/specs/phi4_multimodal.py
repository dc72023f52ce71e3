"""Phi-4-multimodal: whole crops of the unscaled image where they suffice, else the grid of nearest aspect ratio.

An image that ceil(height / 448) x ceil(width / 448) crops of at most dynamic_hd cover gets that grid, a larger one the
grid of nearest ratio. It is letterboxed top left on white; of the stitched map the patches of padding are dropped, the
rest is halved a side and each row ends in a token. The global crop, made from the padded canvas, comes first with one
more token behind it::

    16 * 17 + 1 + R * (C + 1)     R = ceil((32 rows - padding // 14) / 2), C alike
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Stitched
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"

SPEC = Spec(
    key="phi4_multimodal",
    family="phi4_multimodal",
    description="Phi-4-multimodal: crops of the unscaled image, else nearest aspect ratio; padding dropped",
    grid=ClosestRatio(max_crops=36, split="above_grid"),
    crop=CropRule(crop_size=448, patch_size=14, pooling=(2, 2), fit="top_left", min_content_side=10),
    tokens=Stitched(col_tokens=True, low_res_col_tokens=True, unpad="by_patches", num_additional_image_tokens=1),
    knob="dynamic_hd",
    aliases={"dynamic_hd": "max_crops", "size": "crop_size"},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/phi4_multimodal/image_processing_phi4_multimodal.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "transformers raises ValueError where a side of the scaled image is less than 10 px (a ratio of about 1:50 with"
        " one crop, 1:1600 with 36); the numbers here go on.",
        "The global crop is made from the padded canvas, so it shows the padding too.",
        "The processor adds 256 + 1 + 16 tokens for the global crop whatever the crop size: they fit crops of 448 px.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("Phi4MultimodalProcessor",),
    model_types=("phi4_multimodal",),
    image_processor_types=("Phi4MultimodalImageProcessor", "Phi4MultimodalImageProcessorFast"),
    reads=(
        Read("max_crops", "image_processor", "dynamic_hd"),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "image_processor", "patch_size", positive),
        Read("max_sequence_length", "config", "max_position_embeddings", positive),
    ),
    checkpoints={
        "phi-4-multimodal-instruct": Checkpoint(
            repositories=("microsoft/Phi-4-multimodal-instruct",),
            where="https://huggingface.co/microsoft/Phi-4-multimodal-instruct, preprocessor_config.json",
            checked="unverified: taken to be the class defaults",
        ),
    },
)
