from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case
from cases.llava_next import PINPOINTS

_MANY_PINPOINTS = tuple((384 * rows, 384 * cols) for rows in range(1, 11) for cols in range(1, 10 // rows + 1))


def case(rate: str, max_crops: int | None = None, size: int = 384, patch_size: int = 16, **tokens: Any) -> Case:
    """`rate` is 1 / the pooling, in any terms."""
    numerator, denominator = map(int, rate.split("/"))
    pooling = denominator // numerator
    pinpoints = _MANY_PINPOINTS if size == 384 else PINPOINTS
    changes: dict[str, Any] = {"num_additional_image_tokens": tokens.get("additional_tokens", 0)}
    if "strategy" in tokens:
        changes["vision_feature_select_strategy"] = tokens["strategy"]
    spec = mc.get_spec(
        "granite4_vision",
        image_grid_pinpoints=pinpoints,
        crop_size=size,
        patch_size=patch_size,
        pooling=(pooling, pooling),
        **changes,
    )
    kept = [(h, w) for h, w in pinpoints if max_crops is None or -(-h // size) * -(-w // size) <= max_crops]
    upstream = {"size": size, "pinpoints": kept, "patch_size": patch_size, "downsample_rate": rate, **tokens}
    name = f"granite4_vision-{size}-{patch_size}-{rate.replace('/', 'of')}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "granite4_vision", spec, upstream, max_crops)


CASES = [
    case("1/1", size=224, patch_size=32),  # the class default
    case("4/8"),
    case("1/4"),
    case("1/1", strategy="default", additional_tokens=1),
    case("1/3", max_crops=1),
    case("1/2", max_crops=7),
    case("1/1", size=336, patch_size=14),
]
