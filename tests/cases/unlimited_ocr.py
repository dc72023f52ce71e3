from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_crops: int | None = None, **settings: Any) -> Case:
    """The settings have the same names on both sides."""
    upstream = settings if max_crops is None else {**settings, "max_patches": max_crops}
    name = "-".join(["unlimited_ocr", *(f"{value}" for value in upstream.values())])
    return Case(name, "unlimited_ocr", mc.get_spec("unlimited_ocr", **settings), upstream, max_crops)


CASES = [
    case(),
    *(case(n) for n in (1, 2, 5, 9, 50)),
    case(min_patches=1, max_patches=12),
    case(tile_size=1024, size=1280, max_patches=6),
    case(crop_to_patches=False),
]
