from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(max_num_tiles: int, tile_size: int = 448, max_crops: int | None = None) -> Case:
    side = tile_size // 14 // 2
    spec = mc.get_spec("perception_lm", max_num_tiles=max_num_tiles, tile_size=tile_size, tokens_per_crop=side * side)
    upstream = {"max_num_tiles": max_crops or max_num_tiles, "tile_size": tile_size}
    name = f"perception_lm-{tile_size}-{max_num_tiles}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "perception_lm", spec, upstream, max_crops)


CASES = [
    case(36),
    case(1),
    case(16),
    case(5),
    case(2),
    case(36, max_crops=13),
    case(24, tile_size=336),
    case(64),
    Case(
        "perception_lm-vanilla",
        "perception_lm",
        mc.get_spec("perception_lm", vision_input_type="vanilla"),
        {"vision_input_type": "vanilla"},
    ),
]
