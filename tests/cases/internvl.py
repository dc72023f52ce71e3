from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(size: int, max_patches: int, min_patches: int = 1) -> Case:
    spec = mc.get_spec("internvl", size=size, max_patches=max_patches, min_patches=min_patches)
    upstream = {"size": size, "max_patches": max_patches, "min_patches": min_patches}
    return Case(f"internvl-{size}-{min_patches}..{max_patches}", "internvl", spec, upstream)


CASES = [
    case(448, 12),
    case(384, 12),
    case(448, 1),
    case(448, 6, 2),
    case(384, 9, 4),
    case(448, 40),
    case(448, 4, 6),  # no grid at all: one crop
]
