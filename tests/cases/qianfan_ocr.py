from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(key: str, max_patches: int = 12, **changes: Any) -> Case:
    spec = mc.get_spec(key, max_patches=max_patches, **changes)
    upstream = {"size": spec.crop_size, "max_patches": max_patches, **changes}
    name = "-".join([key, f"{max_patches}", *(f"{value}" for value in changes.values())])
    return Case(name, "qianfan_ocr", spec, upstream)


CASES = [
    case("qianfan_ocr"),
    case("baidu-qianfan-ocr"),
    case("qianfan_ocr", crop_to_patches=False),
    case("baidu-qianfan-ocr", 1),
    case("baidu-qianfan-ocr", 7, min_patches=3, image_seq_length=100),
    case("baidu-qianfan-ocr", 24),
]
