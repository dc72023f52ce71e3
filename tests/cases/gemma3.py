from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(crops: int, min_slice: int = 256, min_ratio: float = 1.2, max_crops: int | None = None) -> Case:
    spec = mc.get_spec(
        "gemma-3-4b-it",
        do_pan_and_scan=True,
        pan_and_scan_max_num_crops=crops,
        pan_and_scan_min_crop_size=min_slice,
        pan_and_scan_min_ratio_to_activate=min_ratio,
    )
    upstream = {
        "size": 896,
        "do_pan_and_scan": True,
        "max_num_crops": max_crops or crops,
        "min_crop_size": min_slice,
        "min_ratio": min_ratio,
    }
    name = f"gemma3-{crops}-{min_slice}-{min_ratio}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "gemma3", spec, upstream, max_crops, window=min_slice)


CASES = [
    case(4),
    case(1),
    case(9, min_slice=100, min_ratio=1.5),
    case(2),
    case(4, max_crops=3),
    case(31, min_ratio=2.25),
    case(200, min_slice=33, min_ratio=1.0),
    Case("gemma3-whole", "gemma3", mc.get_spec("gemma3"), {"size": 224}),
]
