"""GOT-OCR 2.0: one crop of the whole image, or the grid of nearest aspect ratio.

The processor does not cut unless a call says ``crop_to_patches=True``. The image is then stretched to the grid, and a
thumbnail follows when there is more than one crop::

    256 * (n + 1)     or 256 for one crop

256 is the processor's num_image_tokens. Start and end tokens are part of its prompt, and not counted here.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, positive, square
from maxcrops.specs._rules import ClosestRatio, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_WHOLE = Fixed(rows=1, cols=1)

SPEC = Spec(
    key="got_ocr2",
    family="got_ocr2",
    description="GOT-OCR 2.0: one crop; on demand a grid of nearest aspect ratio, thumbnail last",
    grid=_WHOLE,
    crop=CropRule(
        crop_size=384,
        patch_size=16,
        pooling=(4, 4),
        global_crop="when_split",
        global_position="last",
    ),
    tokens=Tiled(tokens_per_crop=256),
    knob="max_patches",
    aliases={
        "max_patches": "max_crops",
        "min_patches": "min_crops",
        "size": "crop_size",
        "num_image_tokens": "tokens_per_crop",
    },
    choices={
        "crop_to_patches": {
            "false": {"grid": _WHOLE},
            "true": {"grid": ClosestRatio(max_crops=12, min_crops=1)},
        }
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/got_ocr2/image_processing_got_ocr2.py and processing_got_ocr2.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "The image processor's class default is a crop of 384 px, the model's own is 1024 px.",
        "The processor's own crop_to_patches, min_patches and max_patches go before the folder's: only a call changes"
        " them.",
        "Several pages of one prompt (multi_page) cost the sum of their counts.",
    ),
)

# Its image processor's type is no sign of the family: Aya Vision, InternVL and Qianfan-OCR use it too.
FAMILY = Family(
    spec=SPEC,
    processor_classes=("GotOcr2Processor",),
    model_types=("got_ocr2",),
    reads=(
        Read("crop_size", "config", "vision_config.image_size", square),
        Read("crop_size", "image_processor", "size", square),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "got-ocr-2.0-hf": Checkpoint(
            repositories=("stepfun-ai/GOT-OCR-2.0-hf",),
            where="https://huggingface.co/yonigozlan/GOT-OCR-2.0-hf, preprocessor_config.json: a copy",
            checked=f"{_CHECKED}, by that copy",
            changes={"crop_size": 1024},
        ),
    },
)
