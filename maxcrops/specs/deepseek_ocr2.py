"""DeepSeek-OCR-2: tiles of 768 px for images with a longer side, and one global view of 1024 px.

The grid is that of the nearest aspect ratio, of 2 to 6 tiles, stretched; the global view is letterboxed and read by the
model behind the tiles::

    257 + 144 n

The processor passes crop_to_patches, min_patches and max_patches on every call, so a folder's own values count only
where the image processor is used by itself.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_CROPPED = ClosestRatio(max_crops=6, min_crops=2, split="above_crop")

SPEC = Spec(
    key="deepseek_ocr2",
    family="deepseek_ocr2",
    description="DeepSeek-OCR-2: tiles of nearest aspect ratio beside a larger global view",
    grid=_CROPPED,
    crop=CropRule(
        crop_size=768,
        global_crop_size=1024,
        patch_size=16,
        pooling=(4, 4),
        global_position="last",
        global_fit="letterbox_round",
        min_content_side=1,
    ),
    tokens=Tiled(tokens_per_crop=144, global_tokens=256, image_extra_tokens=1),
    knob="max_patches",
    aliases={
        "max_patches": "max_crops",
        "min_patches": "min_crops",
        "tile_size": "crop_size",
        "size": "global_crop_size",
    },
    choices={
        "crop_to_patches": {
            "true": {"grid": _CROPPED, "global_crop_size": 1024},
            "false": {"grid": Fixed(rows=0, cols=0), "global_crop_size": None},
        }
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/deepseek_ocr2/image_processing_deepseek_ocr2.py and"
            " processing_deepseek_ocr2.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "An image whose short side the letterbox rounds to 0 px (1 x 2048) raises.",
        "With crop_to_patches=False the global view has tile_size pixels a side, but the tokens of size.",
        "The processor's crop_to_patches, min_patches and max_patches replace the folder's unless a call gives them.",
        "A per-call background_color is ignored.",
    ),
)


def _tokens(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The processor counts ceil(side / patch_size / downsample_ratio) features a side."""
    step = read.get("patch_size", defaults["patch_size"]) * read.get("pooling", defaults["pooling"])[0]
    for field, side in (("tokens_per_crop", "crop_size"), ("global_tokens", "global_crop_size")):
        read[field] = (-(-read.get(side, defaults[side]) // step)) ** 2
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("DeepseekOcr2Processor",),
    model_types=("deepseek_ocr2",),
    image_processor_types=("DeepseekOcr2ImageProcessor", "DeepseekOcr2ImageProcessorPil"),
    reads=(
        Read("crop_size", "image_processor", "tile_size", positive),
        Read("global_crop_size", "image_processor", "size", square),
        Read("patch_size", "processor", "patch_size", positive),
        Read("pooling", "processor", "downsample_ratio", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_tokens,
    checkpoints={
        "deepseek-ocr-2": Checkpoint(
            repositories=("deepseek-community/DeepSeek-OCR-2",),
            where="https://huggingface.co/hf-internal-testing/tiny-processor-deepseek_ocr2 (made from it),"
            " processor_config.json",
            checked=_CHECKED,
        ),
    },
)
