from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_patches: int | None = None, **changes: Any) -> Case:
    spec = mc.get_spec("llama4", **changes)
    upstream = {} if max_patches is None else {"max_patches": max_patches}
    name = "-".join(["llama4", *(f"{value}" for value in (upstream | changes).values())])
    return Case(name, "llama4", spec, {**upstream, **changes}, max_patches)


CASES = [
    case(),
    case(resize_to_max_canvas=True),
    *(case(n) for n in (1, 5, 40)),
    case(7, resize_to_max_canvas=True),
    case(30, resize_to_max_canvas=True),
    Case(
        "llama4-448-12",
        "llama4",
        mc.get_spec("llama4", size=448, patch_size=16, tokens_per_crop=196),
        {"size": 448, "patch_size": 16, "max_patches": 12},
        max_crops=12,
    ),
]
