"""SmolVLM2: Idefics3's cut and tokens under classes of its own.

The first SmolVLM checkpoints use Idefics3's classes and stand with that family.
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Checkpoint, Family
from maxcrops.specs._spec import Source
from maxcrops.specs.idefics3 import CROPS_OF_384, CROPS_OF_512, READS
from maxcrops.specs.idefics3 import SPEC as IDEFICS3

_CHECKED = "2026-11-24"

SPEC = replace(
    IDEFICS3,
    key="smolvlm",
    family="smolvlm",
    description="SmolVLM2: Idefics3's cut and tokens",
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/smolvlm/image_processing_smolvlm.py and processing_smolvlm.py",
            _CHECKED,
        ),
    ),
    caveats=(*IDEFICS3.caveats, "Its processor cannot be built without num2words, even for images."),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("SmolVLMProcessor",),
    model_types=("smolvlm",),
    image_processor_types=("SmolVLMImageProcessor", "SmolVLMImageProcessorFast", "SmolVLMImageProcessorPil"),
    reads=READS,
    checkpoints={
        "smolvlm2-2.2b-instruct": Checkpoint(
            repositories=("HuggingFaceTB/SmolVLM2-2.2B-Instruct",),
            where="https://huggingface.co/HuggingFaceTB/SmolVLM2-2.2B-Instruct, preprocessor_config.json",
            checked=_CHECKED,
            changes=CROPS_OF_384,
        ),
        "smolvlm2-256m-video-instruct": Checkpoint(
            repositories=(
                "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
                "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
            ),
            where="https://huggingface.co/HuggingFaceTB/SmolVLM2-256M-Video-Instruct, preprocessor_config.json",
            checked=_CHECKED,
            changes=CROPS_OF_512,
        ),
    },
)
