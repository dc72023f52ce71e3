from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_patches: int | None = None, side: int = 16, **changes: Any) -> Case:
    """`side`: tokens a side of a crop."""
    spec = mc.get_spec("cohere2_vision", tokens_per_crop=side**2, **changes)
    upstream = {"size": spec.crop_size, "max_patches": max_patches or 12, "side": side}
    if not changes.get("crop_to_patches", True):
        upstream["crop_to_patches"] = False
    name = "-".join(["cohere2_vision", *(f"{value}" for value in upstream.values())])
    return Case(name, "cohere2_vision", spec, upstream, max_patches)


CASES = [
    case(),
    case(crop_to_patches=False),
    *(case(n) for n in (1, 5, 24)),
    case(17, size=364, side=13),
]
