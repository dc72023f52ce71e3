"""The arrays that come with the crops, made by the core: keys, shapes, dtypes and order are the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maxcrops import _core
from maxcrops.specs import Spec

UNUSED = -100
"""What a feature that a neighbouring crop has stands at, in Molmo's image_input_idx."""

KINDS = ("patch", "col", "start", "end")
"""Of image tokens, in the order of the core's TokenKind."""

Arrays = dict[str, npt.NDArray[np.generic]]


def pixel_key(spec: Spec) -> str:
    """The name of the crops' array."""
    return "pixel_values" if spec.pack == "token_pooling" else "images"


def index_arrays(spec: Spec, layouts: Sequence[_core.Layout], token_ids: Sequence[int]) -> Arrays:
    """What stands behind the crops in the batch."""
    return _token_pooling(spec, layouts) if spec.pack == "token_pooling" else _positions(spec, layouts, token_ids)


def _token_pooling(spec: Spec, layouts: Sequence[_core.Layout]) -> Arrays:
    core = spec._core
    grids = np.array([_core.feature_grids(core, layout) for layout in layouts], np.int64).reshape(-1, 4)
    counts = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
    ends = np.cumsum(counts)
    pooling = np.empty((int(counts.sum()), spec.pooling[0] * spec.pooling[1]), np.int32)
    patches = 0
    for layout, count, end in zip(layouts, counts, ends, strict=True):
        _core.token_pooling(core, layout, patches, pooling[end - count : end])
        patches += layout.vit_patches
    return {
        "image_token_pooling": pooling,
        "image_grids": grids,
        "image_num_crops": np.array([layout.num_crops for layout in layouts], np.int64),
    }


def _positions(spec: Spec, layouts: Sequence[_core.Layout], token_ids: Sequence[int]) -> Arrays:
    core = spec._core
    side = spec.crop_size // spec.patch_size
    features = -(-side // spec.pooling[0]) * -(-side // spec.pooling[1])
    num_crops = sum(layout.num_crops for layout in layouts)
    positions = np.empty((num_crops, features), np.int32)
    masks = np.empty((num_crops, side**2), np.float32)
    tokens = np.empty(sum(layout.sequence_tokens for layout in layouts), np.int32)
    crop = token = 0
    for layout in layouts:
        crops, ends = slice(crop, crop + layout.num_crops), token + layout.sequence_tokens
        _core.feature_positions(core, layout, token, UNUSED, positions[crops])
        _core.patch_masks(layout, masks[crops])
        _core.image_tokens(core, layout, token_ids, tokens[token:ends])
        crop, token = crops.stop, ends
    return {"image_input_idx": positions, "image_masks": masks, "image_tokens": tokens}
