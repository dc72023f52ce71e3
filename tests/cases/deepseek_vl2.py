from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case

PUBLISHED = mc.get_spec("deepseek_vl2").resolutions
_MANY = tuple((384 * rows, 384 * cols) for cols in range(1, 6) for rows in range(1, 6))
_LARGE_TILES = tuple((448 * rows, 448 * cols) for rows in range(1, 4) for cols in range(1, 4))


def case(
    name: str, resolutions: tuple[tuple[int, int], ...] = PUBLISHED, max_crops: int | None = None, **changes: Any
) -> Case:
    spec = mc.get_spec("deepseek_vl2", resolutions=resolutions, **changes)
    tile = spec.crop_size
    kept = [(h, w) for h, w in resolutions if max_crops is None or (h // tile) * (w // tile) <= max_crops]
    upstream: dict[str, Any] = {"candidate_resolutions": [(width, height) for height, width in kept]}
    upstream |= {"patch_size": spec.patch_size, "downsample_ratio": spec.pooling[0]}
    if "cropping" in changes:
        upstream["cropping"] = changes["cropping"]
    return Case(f"deepseek_vl2-{name}", "deepseek_vl2", spec, upstream, max_crops)


CASES = [
    case("published"),
    *(case(f"published-{n}", max_crops=n) for n in (1, 2, 4, 7)),
    case("many", _MANY),
    case("many-12", _MANY, max_crops=12),
    case("tiles448", _LARGE_TILES, crop_size=448, downsample_ratio=(3, 3)),
    case("whole", cropping=False),
]
