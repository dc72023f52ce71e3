from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case

_ODD = ((490, 1470), (1000, 1000), (1960, 490), (2940, 3430))


def case(max_image_size: int, *resolutions: tuple[int, int], split: bool = True, max_crops: int | None = None) -> Case:
    changes: dict[str, Any] = {"split_resolutions": resolutions} if resolutions else {}
    spec = mc.get_spec("aria", split_image=split, max_image_size=str(max_image_size), **changes)
    upstream: dict[str, Any] = {"split_image": split, "max_image_size": max_image_size}
    if split:
        size = max_image_size
        kept = [(h, w) for h, w in spec.resolutions if max_crops is None or -(-h // size) * -(-w // size) <= max_crops]
        upstream["split_resolutions"] = kept
    name = f"aria-{max_image_size}-" + (f"split{len(spec.resolutions)}" if split else "whole")
    return Case(name + (f"-{max_crops}" if max_crops else ""), "aria", spec, upstream, max_crops, window=490)


CASES = [
    case(980, split=False),
    case(490, split=False),
    case(490),
    case(980),
    case(490, max_crops=2),
    case(490, max_crops=5),
    case(980, max_crops=2),
    case(980, *_ODD),
    case(490, *_ODD),
]
