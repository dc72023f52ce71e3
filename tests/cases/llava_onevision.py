from __future__ import annotations

import maxcrops as mc
from cases import Case

PINPOINTS = tuple((384 * rows, 384 * cols) for rows in range(1, 7) for cols in range(1, 7))


def case(
    *, max_crops: int | None = None, max_map_crops: int = 9, pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
) -> Case:
    spec = mc.get_spec("llava_onevision", image_grid_pinpoints=pinpoints, max_map_crops=max_map_crops)
    kept = [(h, w) for h, w in pinpoints if max_crops is None or h // 384 * (w // 384) <= max_crops]
    upstream = {"size": 384, "pinpoints": kept, "vision_aspect_ratio": f"anyres_max_{max_map_crops}"}
    name = f"llava_onevision-{len(pinpoints)}-max{max_map_crops}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "llava_onevision", spec, upstream, max_crops)


CASES = [
    case(),
    case(max_map_crops=4),
    case(max_map_crops=36),
    case(max_map_crops=1),
    case(max_crops=1),
    case(max_crops=5),
    case(max_crops=12),
    case(pinpoints=((384, 2304), (1152, 768), (2304, 384))),
]
