from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def case(name: str, changes: dict[str, Any] | None = None, max_crops: int | None = None, **upstream: Any) -> Case:
    """`changes` are ours, `upstream` the processor's; max_crops sets max_image_size to whole crops."""
    if max_crops is not None:
        side = max(s for s in range(1, 100) if s * s <= max_crops)
        upstream["max_image_size"] = side * 504
    return Case(f"step3p7-{name}", "step3p7", mc.get_spec("step3p7", **(changes or {})), upstream, max_crops)


CASES = [
    case("default"),
    *(case(f"{n}", max_crops=n) for n in (1, 2, 5, 9, 17, 100)),
    *(case(f"edge{edge}", {"max_image_size": edge}, max_image_size=edge) for edge in (728, 1000, 2999)),
    case(
        "448",
        {"crop_size": 448, "size": 448, "tokens_per_crop": 64, "global_tokens": 64},
        patch_size=448,
        size=448,
    ),
]
