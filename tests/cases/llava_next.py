from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_MANY_PINPOINTS = tuple((336 * r, 336 * c) for r in range(1, 5) for c in range(1, 5))


def case(key: str, pinpoints: tuple[tuple[int, int], ...] = PINPOINTS, max_crops: int | None = None) -> Case:
    spec = mc.get_spec(key, image_grid_pinpoints=pinpoints)
    size = 224 if key == "llava_next" else 336
    kept = [(h, w) for h, w in pinpoints if max_crops is None or -(-h // size) * -(-w // size) <= max_crops]
    upstream: dict[str, Any] = {"size": size, "pinpoints": kept}
    if key != "llava_next":
        upstream |= {"strategy": "default", "additional_tokens": 1}
    name = f"{key}-{len(pinpoints)}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "llava_next", spec, upstream, max_crops)


CASES = [
    case("llava_next"),
    case("llava-v1.6-mistral-7b"),
    case("llava-v1.6-mistral-7b", max_crops=2),
    case("llava-v1.6-mistral-7b", max_crops=3),
    case("llava-v1.6-mistral-7b", _MANY_PINPOINTS),
    case("llava-v1.6-mistral-7b", _MANY_PINPOINTS, max_crops=7),
    case("llava_next", _MANY_PINPOINTS, max_crops=9),
]
