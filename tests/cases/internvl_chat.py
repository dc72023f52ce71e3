from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(tokens_per_crop: int = 256, **settings: Any) -> Case:
    """The settings have the same names on both sides."""
    spec = mc.get_spec("internvl_chat", tokens_per_crop=tokens_per_crop, **settings)
    name = "-".join(["internvl_chat", *(f"{value}" for value in settings.values())])
    return Case(name, "internvl_chat", spec, settings)


CASES = [
    case(),
    *(case(max_dynamic_patch=n) for n in (1, 2, 6, 40)),
    case(min_dynamic_patch=3, max_dynamic_patch=9),
    case(use_thumbnail=False, max_dynamic_patch=7),
    case(dynamic_image_size=False),
    case(64, force_image_size=224, max_dynamic_patch=12),
]
