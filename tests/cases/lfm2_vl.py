from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(name: str, changes: dict[str, Any] | None = None, max_crops: int | None = None, **upstream: Any) -> Case:
    """`changes` are ours, `upstream` the processor's."""
    spec = mc.get_spec("lfm2_vl", **(changes or {}))
    if max_crops is not None:
        upstream["max_tiles"] = max_crops
    return Case(f"lfm2_vl-{name}", "lfm2_vl", spec, upstream, max_crops)


_SMALL = {"max_image_tokens": 64, "min_image_tokens": 16}

CASES = [
    case("default"),
    *(case(f"{n}", max_crops=n) for n in (2, 3, 7, 24)),
    case("min4", {"min_tiles": 4, "max_tiles": 12}, min_tiles=4, max_tiles=12),
    case("tolerance1.5", {"max_pixels_tolerance": 1.5}, max_pixels_tolerance=1.5),
    case("tokens16..64", {**_SMALL, "max_pixels_tolerance": 3.0}, **_SMALL, max_pixels_tolerance=3.0),
    case(
        "tile384",
        {"tile_size": 384, "tokens_per_crop": 144, "use_image_special_tokens": False},
        tile_size=384,
        use_image_special_tokens=False,
    ),
    case("tiles-alone", {"use_thumbnail": False}, use_thumbnail=False),
    case("whole", {"do_image_splitting": False}, do_image_splitting=False),
]
