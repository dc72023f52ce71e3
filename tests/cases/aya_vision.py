from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(key: str, max_patches: int = 12, **changes: Any) -> Case:
    spec = mc.get_spec(key, **changes)
    upstream = {"size": spec.crop_size, "max_patches": max_patches, **changes}
    name = "-".join([key, f"{max_patches}", *(f"{value}" for value in changes.values())])
    return Case(name, "aya_vision", spec, upstream, max_crops=None if max_patches == 12 else max_patches)


CASES = [
    case("aya_vision"),
    case("aya-vision-8b"),
    case("aya_vision", crop_to_patches=False),
    *(case("aya-vision-8b", n) for n in (1, 5, 24)),
    case("aya_vision", 9, min_patches=4),
    Case(
        "aya_vision-14x2",
        "aya_vision",
        mc.get_spec("aya_vision", size=392, tokens_per_crop=196),
        {"size": 392, "img_size": 392, "patch_size": 14, "downsample_factor": 2},
    ),
]
