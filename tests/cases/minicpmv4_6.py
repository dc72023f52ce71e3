from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_crops: int | None = None, **settings: Any) -> Case:
    """The settings have the same names on both sides."""
    upstream = settings if max_crops is None else {**settings, "max_slice_nums": max_crops}
    name = "-".join(["minicpmv4_6", *(f"{value}" for value in upstream.values())])
    return Case(name, "minicpmv4_6", mc.get_spec("minicpmv4_6", **settings), upstream, max_crops)


CASES = [
    case(),
    *(case(n) for n in (1, 2, 3, 5, 12)),
    case(16, downsample_mode="4x"),
    case(downsample_mode="4x", use_image_id=False),
    case(slice_mode=False),
    case(7, scale_resolution=980, patch_size=16),
]
