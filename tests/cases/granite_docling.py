from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(max_patches: int | None = None, **changes: Any) -> Case:
    spec = mc.get_spec("granite_docling", **changes)
    upstream = {} if max_patches is None else {"max_patches": max_patches}
    name = "-".join(["granite_docling", *(f"{value}" for value in (upstream | changes).values())])
    return Case(name, "granite_docling", spec, {**upstream, **changes}, max_patches)


CASES = [
    case(),
    case(1),
    case(crop_to_patches=False),
    case(5),
    case(7, min_patches=3),
    case(40),
    case(64, fine_route=True),
    case(20, size=384, image_seq_len=81),
]
