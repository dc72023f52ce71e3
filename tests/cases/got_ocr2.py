from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(size: int, max_patches: int = 12, min_patches: int = 1) -> Case:
    upstream: dict[str, Any] = {"size": size, "max_patches": max_patches, "min_patches": min_patches}
    spec = mc.get_spec("got_ocr2", crop_to_patches=True, **upstream)
    return Case(f"got_ocr2-{size}-{min_patches}..{max_patches}", "got_ocr2", spec, upstream)


CASES = [
    case(384),
    case(1024),
    Case("got_ocr2-whole", "got_ocr2", mc.get_spec("got_ocr2"), {"size": 384, "crop_to_patches": False}),
    case(384, 1),
    case(1024, 9, 4),
    case(448, 24),
]
