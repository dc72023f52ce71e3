"""Ovis2: the fewest crops that keep nine tenths of the image's area.

Each grid is judged by cutting the unscaled image and shrinking every cell into a crop: of the grids that keep more than
0.9 of the area the one with fewest crops, else the one that keeps most. The image is stretched to the grid; a thumbnail
comes first when there is more than one crop. A token stands between two crops and two rows::

    258 + 257 * n     or 259 for one crop

Oddity: the search returns (rows, cols) and transformers reads (cols, rows), so a tall image is cut into a wide grid.
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, flag, positive, square
from maxcrops.specs._rules import ClosestRatio, CoveringArea, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_WHOLE = Fixed(rows=1, cols=1)

SPEC = Spec(
    key="ovis2",
    family="ovis2",
    description="Ovis2: fewest crops that keep 0.9 of the area, thumbnail first",
    grid=_WHOLE,
    crop=CropRule(crop_size=384, patch_size=14, global_crop="when_split"),
    tokens=Tiled(tokens_per_crop=256, crop_extra_tokens=1, image_extra_tokens=2),
    knob="max_patches",
    aliases={
        "max_patches": "max_crops",
        "min_patches": "min_crops",
        "size": "crop_size",
        "image_seq_length": "tokens_per_crop",
        "hidden_stride": "pooling",
    },
    choices={
        "crop_to_patches": {
            "false": {"grid": _WHOLE},
            "true": {"grid": CoveringArea(max_crops=12, covering_threshold=0.9, transposed=True)},
            # What the search means, and what Ovis' own code does.
            "corrected": {"grid": CoveringArea(max_crops=12, covering_threshold=0.9, transposed=False)},
            # use_covering_area_grid=False
            "closest_ratio": {"grid": ClosestRatio(max_crops=12, min_crops=1)},
        }
    },
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/ovis2/image_processing_ovis2.py, processing_ovis2.py and"
            " configuration_ovis2.py (patches)",
            _CHECKED,
        ),
    ),
    caveats=(
        "transformers exchanges rows and columns of the grid that it finds: an image of 1344 x 448 px, which is tall,"
        " is stretched to 1 x 3 crops, which are wide. crop_to_patches='true' does the same, 'corrected' does not; the"
        " tokens are equal.",
        "The class default does not crop; published checkpoints do.",
        "Shares of the area are sums of floats. From Python 3.12 on, sum() compensates rounding, which decides between"
        " grids that keep equal shares: 3 % of ordinary sizes are cut otherwise (2000 x 500 px into 4 crops instead of"
        " 6). The numbers here are Python 3.12's; compensated_sum=False gives those of 3.11 and before.",
    ),
)


def _cut(_: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """Two settings are one choice here; bounds on a number of crops go where there is no cut."""
    by_ratio = read.pop("use_covering_area_grid", True) is False
    if read.get("crop_to_patches") != "true":
        read.pop("max_crops", None)
    elif by_ratio:
        return {**read, "crop_to_patches": "closest_ratio"}
    read.pop("min_crops", None)  # covering_area has none
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("Ovis2Processor",),
    model_types=("ovis2",),
    image_processor_types=("Ovis2ImageProcessor", "Ovis2ImageProcessorFast", "Ovis2ImageProcessorPil"),
    reads=(
        Read("crop_to_patches", "image_processor", "crop_to_patches", flag),
        Read("use_covering_area_grid", "image_processor", "use_covering_area_grid"),
        Read("max_crops", "image_processor", "max_patches"),
        Read("min_crops", "image_processor", "min_patches"),
        Read("crop_size", "image_processor", "size", square),
        Read("tokens_per_crop", "processor", "image_seq_length", positive),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("pooling", "config", "vision_config.hidden_stride", both_sides),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    derive=_cut,
    checkpoints={
        "ovis2-2b": Checkpoint(
            repositories=("thisisiron/Ovis2-2B-hf",),
            where="https://huggingface.co/thisisiron/Ovis2-2B-hf, preprocessor_config.json",
            checked="unverified: crops of 448 px, max_patches 9 and cropping are from memory",
            changes={"crop_to_patches": "true", "max_crops": 9, "crop_size": 448, "pooling": (2, 2)},
            unverified=("crop_size", "max_crops", "crop_to_patches"),
        ),
    },
)
