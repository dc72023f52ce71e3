from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_crops: int | None = None, tokens: dict[str, int] | None = None, **settings: Any) -> Case:
    """The settings have the same names on both sides; `tokens` are what ours does not compute from them."""
    upstream = settings if max_crops is None else {**settings, "max_patches": max_crops}
    name = "-".join(["deepseek_ocr2", *(f"{value}" for value in upstream.values())])
    return Case(name, "deepseek_ocr2", mc.get_spec("deepseek_ocr2", **settings, **(tokens or {})), upstream, max_crops)


CASES = [
    case(),
    *(case(n) for n in (1, 2, 3, 9, 40)),
    case(min_patches=1, max_patches=12),
    case(8, min_patches=3),
    case(tokens={"tokens_per_crop": 100, "global_tokens": 400}, tile_size=640, size=1280),
    case(crop_to_patches=False),
]
