"""Step-3.7: a window by the image's shape, both sides rounded to whole windows, and a global view.

The image is scaled down to 3024 px, then cut into windows: of 504 px, or of its short side where its ratio is above 4;
an image that fits the global view's 728 px is cut into squares of its short side if its ratio is above 1.5, and not at
all otherwise. A rest of more than a fifth of a window makes one more. Each window is resized to 504 px::

    171     or split, 171 + 83 n + (rows - 1)

The global view comes last in the sequence. An image thinner than 32 px at a ratio above 4 counts as a square.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, positive, square
from maxcrops.specs._rules import CropRule, Tiled, WindowSnap
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"

SPEC = Spec(
    key="step3p7",
    family="step3p7",
    description="Step-3.7: windows by the image's shape beside a larger global view",
    grid=WindowSnap(max_image_size=3024),
    crop=CropRule(crop_size=504, global_crop_size=728, patch_size=14, pooling=(4, 4), global_position="last"),
    tokens=Tiled(
        tokens_per_crop=81,
        crop_extra_tokens=2,
        row_separator_tokens=1,
        global_tokens=169,
        global_extra_tokens=2,
    ),
    knob="max_image_size",
    aliases={"size": "global_crop_size"},  # its own patch_size is the crop's, a name that is taken here
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/step3p7/image_processing_step3p7.py and processing_step3p7.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "Thin images are measured before they are scaled down, so 8000 x 32 px makes 252 windows of 12 px and 21338"
        " tokens; a square of 3024 px makes 36 and 3164.",
        "Where scaling down leaves a side of 0 px (97000 x 32) the processor divides by zero; a side of 1 px is counted"
        " here.",
        "A per-call max_image_size is ignored.",
        "What the processor calls patch_size is crop_size here.",
    ),
)


def _tokens(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The processor counts side // 56 features a side: patches of 14 px, two convolutions of stride 2."""
    step = read.get("patch_size", defaults["patch_size"]) * read.get("pooling", defaults["pooling"])[0]
    for field, side in (("tokens_per_crop", "crop_size"), ("global_tokens", "global_crop_size")):
        read[field] = (read.get(side, defaults[side]) // step) ** 2
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Step3p7Processor",),
    model_types=("step3p7",),
    image_processor_types=("Step3p7ImageProcessor",),
    reads=(
        Read("max_image_size", "image_processor", "max_image_size", positive),
        Read("crop_size", "image_processor", "patch_size", positive),
        Read("global_crop_size", "image_processor", "size", square),
        Read("patch_size", "image_processor", "vision_patch_size", positive),
        Read("pooling", "image_processor", "downsampler_stride", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_tokens,
    checkpoints={
        "step-3.7-flash": Checkpoint(
            repositories=("stepfun-ai/Step-3.7-Flash",),
            where="transformers 5.23.0, models/step3p7/configuration_step3p7.py names it",
            checked="unverified: taken to have the class defaults",
        ),
    },
)
