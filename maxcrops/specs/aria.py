"""Aria: the whole image in one crop, or, on demand, the best of a list of resolutions in crops without a thumbnail.

A crop keeps its ratio in a square of 980 or 490 px. Every crop costs 256 tokens at 980 px, 128 at 490::

    256 * n

split_resolutions are multiples of 490 px whatever the crop: with crops of 980 px those at the edge of an odd multiple
are smaller and enlarged again.
"""

from __future__ import annotations

from maxcrops.specs._family import Family, Read, positive, square
from maxcrops.specs._rules import BestResolution, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_GRIDS = (
    *((1, cols) for cols in range(2, 9)),
    (2, 4), (2, 3), (2, 2), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2),
    *((rows, 1) for rows in range(5, 9)),
)  # fmt: skip
_SPLIT = BestResolution(resolutions=tuple((490 * rows, 490 * cols) for rows, cols in _GRIDS))
_WHOLE = Fixed(rows=1, cols=1)

SPEC = Spec(
    key="aria",
    family="aria",
    description="Aria: one crop with its ratio kept, or the best of 19 resolutions in crops",
    grid=_WHOLE,
    crop=CropRule(crop_size=980, patch_size=14, global_crop="never", fit="top_left"),
    tokens=Tiled(tokens_per_crop=256),
    knob="split_resolutions",
    aliases={"split_resolutions": "resolutions"},
    choices={
        "split_image": {
            "false": {"grid": _WHOLE, "fit": "top_left"},
            "true": {"grid": _SPLIT, "fit": "letterbox_ceil"},
        },
        "max_image_size": {
            "980": {"crop_size": 980, "tokens_per_crop": 256},
            "490": {"crop_size": 490, "tokens_per_crop": 128},
        },
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/aria/image_processing_aria.py, processing_aria.py and"
            " configuration_aria.py (4900 patches to 256 queries)",
            _CHECKED,
        ),
    ),
    caveats=(
        "num_crops is the maximum over the batch: upstream every image of a mixed batch gets the tokens of the one with"
        " most crops. The numbers here are those of an image alone.",
        "The processor turns split_image off and sets max_image_size to 980 in every call, whatever the folder's"
        " configuration says; a call's own settings go first.",
        "A crop's short side is enlarged to min_image_size (336 px) at least: a thin image does not keep its ratio.",
    ),
)


def _tokens_at_980(value: object) -> int:
    sizes = {int(size): tokens for size, tokens in value.items()} if isinstance(value, dict) else {}
    return positive(sizes.get(980))


FAMILY = Family(
    spec=SPEC,
    processor_classes=("AriaProcessor",),
    model_types=("aria",),
    image_processor_types=("AriaImageProcessor", "AriaImageProcessorFast", "AriaImageProcessorPil"),
    reads=(
        Read("tokens_per_crop", "processor", "size_conversion", _tokens_at_980),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
)
