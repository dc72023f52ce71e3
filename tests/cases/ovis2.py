from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(
    size: int, cut: str, max_patches: int = 12, min_patches: int = 1, max_crops: int | None = None, **more: Any
) -> Case:
    """Of a cut by crop_to_patches of the spec; max_crops takes the place of max_patches."""
    changes: dict[str, Any] = {} if cut == "false" else {"max_patches": max_patches}
    if cut == "closest_ratio":
        changes["min_patches"] = min_patches
    changes |= more
    spec = mc.get_spec("ovis2", crop_to_patches=cut, size=size, **changes)
    upstream = {
        "size": size,
        "crop_to_patches": cut != "false",
        "max_patches": max_crops or max_patches,
        "min_patches": min_patches,
        "use_covering_area_grid": cut != "closest_ratio",
        "corrected": cut == "corrected",
        **more,
    }
    name = f"ovis2-{size}-{cut}-{min_patches}..{max_patches}" + (f"-{max_crops}" if max_crops else "")
    name += "-plain-sum" if more else ""
    return Case(name, "ovis2", spec, upstream, max_crops)


CASES = [
    case(448, "true", 9),
    case(448, "true", 1),
    case(448, "corrected", 9),
    case(384, "true", 12),
    case(384, "true", max_crops=7),
    case(448, "corrected", 5),
    case(448, "true", 9, compensated_sum=False),
    case(384, "true", 12, compensated_sum=False),
    case(448, "closest_ratio", 9),
    case(384, "closest_ratio", 30, 4),
    case(384, "false"),
]
