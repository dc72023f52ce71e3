"""The arrays that come with the crops, made by the core: keys, shapes, dtypes and order are the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maxcrops import _core
from maxcrops.specs import Spec
from maxcrops.specs._rules import PixelRule

UNUSED = -100
"""What a feature that a neighbouring crop has stands at, in Molmo's image_input_idx."""

KINDS = ("patch", "col", "start", "end")
"""Of image tokens, in the order of the core's TokenKind."""

Arrays = dict[str, npt.NDArray[np.generic]]


def pixel_key(rule: PixelRule) -> str:
    """The name of the crops' array."""
    return "pixel_values" if rule.pack == "token_pooling" else "images"


def index_arrays(spec: Spec, rule: PixelRule, layouts: Sequence[_core.Layout], token_ids: Sequence[int]) -> Arrays:
    """What stands behind the crops in the batch."""
    crop, images = spec.crop, len(layouts)
    if rule.pack == "token_pooling":
        pooling = np.empty((_core.num_features(spec._core, layouts), crop.pooling[0] * crop.pooling[1]), np.int32)
        grids, num_crops = np.empty((images, 4), np.int64), np.empty(images, np.int64)
        _core.write_token_pooling(spec._core, layouts, pooling, grids, num_crops)
        return {"image_token_pooling": pooling, "image_grids": grids, "image_num_crops": num_crops}
    side = crop.crop_size // crop.patch_size
    crops = sum(layout.num_crops for layout in layouts)
    positions = np.empty((crops, -(-side // crop.pooling[0]) * -(-side // crop.pooling[1])), np.int32)
    masks = np.empty((crops, side**2), np.float32)
    tokens = np.empty(sum(layout.sequence_tokens for layout in layouts), np.int32)
    _core.write_positions(spec._core, layouts, token_ids, UNUSED, positions, masks, tokens)
    return {"image_input_idx": positions, "image_masks": masks, "image_tokens": tokens}
