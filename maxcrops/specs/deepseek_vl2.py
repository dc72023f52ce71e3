"""DeepSeek-VL2: the best of a list of resolutions, tiles of 384 px, stitched with their padding.

The image is letterboxed onto the chosen resolution and cut; the tiles' features are one map of 14 rows x 14 cols, a
newline token ends each of its rows and each of the global view's 14, and one token separates the two. The global view
comes first::

    211 + 14 rows * (14 cols + 1)

The knob is the list itself: max_crops leaves out the entries with more tiles. A sample of more than two images is not
cut: 421 tokens each (cropping="false").
"""

from __future__ import annotations

from typing import Any

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, pairs, positive
from maxcrops.specs._rules import BestResolution, CropRule, Fixed, Stitched
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
# In the order of the published lists, which have (width, height).
_TILES = (
    (1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (4, 1), (1, 4), (2, 2), (5, 1), (1, 5), (6, 1), (1, 6), (3, 2), (2, 3),
    (7, 1), (1, 7), (8, 1), (1, 8), (4, 2), (2, 4), (9, 1), (1, 9), (3, 3),
)  # fmt: skip
_CUT = BestResolution(resolutions=tuple((384 * rows, 384 * cols) for rows, cols in _TILES))

SPEC = Spec(
    key="deepseek_vl2",
    family="deepseek_vl2",
    description="DeepSeek-VL2: best of a list of resolutions, tiles stitched to one map",
    grid=_CUT,
    crop=CropRule(
        crop_size=384,
        patch_size=14,
        pooling=(2, 2),
        fit="letterbox_round",
        global_fit="letterbox_round",
    ),
    tokens=Stitched(col_tokens=True, low_res_col_tokens=True, low_res_start_end_tokens=1),
    knob="candidate_resolutions",
    aliases={"downsample_ratio": "pooling"},
    choices={"cropping": {"true": {"grid": _CUT}, "false": {"grid": Fixed(rows=1, cols=1)}}},
    max_sequence_length=4096,
    sources=(
        Source(
            "cutting and tokens",
            "https://github.com/deepseek-ai/DeepSeek-VL2, deepseek_vl2/models/processing_deepseek_vl_v2.py",
            _CHECKED,
        ),
        Source("resolutions", "https://huggingface.co/deepseek-ai/deepseek-vl2-tiny, processor_config.json", _CHECKED),
    ),
    caveats=(
        "candidate_resolutions are (width, height) in the model's files and (height, width) here; the order of two"
        " entries that are each other's mirror image decides squares.",
        "With more than two images in a sample none is cut, yet each keeps one local tile beside its global view.",
        "DeepSeek-OCR's folders carry the same model_type and processor class, with other processors' code.",
    ),
)


def _resolutions(value: Any) -> tuple[tuple[int, int], ...]:
    """(height, width) of the files' (width, height)."""
    found = pairs(value)
    if found == ((1024, 1024),):
        raise ValueError("this is DeepSeek-OCR's, which is cut by other code")
    return tuple((height, width) for width, height in found)


def _crop_size(defaults: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The first side of the list is a tile's."""
    if "resolutions" in read:
        read["crop_size"] = read["resolutions"][0][1]
    return read


FAMILY = Family(
    spec=SPEC,
    processor_classes=("DeepseekVLV2Processor",),
    model_types=("deepseek_vl_v2",),
    reads=(
        Read("resolutions", "config", "candidate_resolutions", _resolutions),
        Read("resolutions", "image_processor", "candidate_resolutions", _resolutions),
        Read("resolutions", "processor", "candidate_resolutions", _resolutions),
        *(Read("patch_size", document, "patch_size", positive) for document in ("image_processor", "processor")),
        *(Read("pooling", document, "downsample_ratio", both_sides) for document in ("image_processor", "processor")),
        Read("max_sequence_length", "config", "language_config.max_position_embeddings", positive),
    ),
    derive=_crop_size,
    checkpoints={
        "deepseek-vl2-tiny": Checkpoint(
            repositories=("deepseek-ai/deepseek-vl2-tiny",),
            where="https://huggingface.co/deepseek-ai/deepseek-vl2-tiny, processor_config.json",
            checked=_CHECKED,
        ),
        "deepseek-vl2-small": Checkpoint(  # deepseek-vl2 is the family's own key, of the same settings
            repositories=("deepseek-ai/deepseek-vl2-small", "deepseek-ai/deepseek-vl2"),
            where="https://huggingface.co/deepseek-ai/deepseek-vl2, config.json",
            checked=f"{_CHECKED}, the list of resolutions only",
        ),
    },
)
