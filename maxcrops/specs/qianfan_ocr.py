"""Qianfan-OCR: InternVL's cut and count under a processor of its own.

Its prompt marks an image by ``<image>``, which becomes start, features and end::

    2 + 256 * (n + 1)     or 258 for one crop
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Checkpoint, Family
from maxcrops.specs._spec import Source
from maxcrops.specs.internvl import FAMILY as INTERNVL

_CHECKED = "2026-11-25"

SPEC = replace(
    INTERNVL.spec,
    key="qianfan_ocr",
    family="qianfan_ocr",
    description="Qianfan-OCR: InternVL's cut and tokens",
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/got_ocr2/image_processing_got_ocr2.py (the image processor it uses)",
            _CHECKED,
        ),
        Source("tokens", "transformers 5.23.0, models/qianfan_ocr/processing_qianfan_ocr.py", _CHECKED),
    ),
    caveats=(
        "The image processor's class default is a crop of 384 px, the model's own is 448 px.",
        "The processor turns crop_to_patches on for every call, whatever the folder's configuration says.",
        "Earlier revisions of the published folder name InternVL's processor, which counts alike.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("QianfanOCRProcessor",),
    model_types=("qianfan_ocr",),
    reads=INTERNVL.reads,
    checkpoints={
        "baidu-qianfan-ocr": Checkpoint(
            repositories=("baidu/Qianfan-OCR",),
            where="https://huggingface.co/baidu/Qianfan-OCR, processor_config.json: image_seq_length 256; transformers"
            " 5.23.0, models/qianfan_ocr/configuration_qianfan_ocr.py: image_size 448",
            checked=f"unverified: {_CHECKED}, the crop size by the model's configuration only, max_patches not seen",
            changes={"crop_size": 448},
            unverified=("crop_size", "max_crops"),
        ),
    },
)
