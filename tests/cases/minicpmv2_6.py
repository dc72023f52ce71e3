from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_crops: int | None = None, key: str = "minicpmv2_6", **settings: Any) -> Case:
    """The settings have the same names on both sides."""
    upstream = settings if max_crops is None else {**settings, "max_slice_nums": max_crops}
    name = "-".join([key, *(f"{value}" for value in upstream.values())])
    if key != "minicpmv2_6":
        upstream = {**upstream, "use_image_id": True}
    return Case(name, "minicpmv2_6", mc.get_spec(key, **settings), upstream, max_crops)


CASES = [
    case(),
    *(case(n) for n in (1, 2, 3, 12, 36)),
    case(key="minicpm-v-2.6"),
    case(slice_mode=False),
    case(7, scale_resolution=384, image_feature_size=96),
]
