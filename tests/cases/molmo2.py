from __future__ import annotations

from typing import Any

import maxcrops as mc
from cases import Case


def _case(key: str, max_crops: int | None = None, **upstream: Any) -> Case:
    if max_crops is not None:
        upstream["max_crops"] = max_crops
    name = "-".join([key, *(f"{value}" for value in upstream.values())])
    return Case(name, "molmo2", mc.get_spec(key), upstream, max_crops, window=266, margin=112)


CASES = [
    _case("molmo2"),
    *(_case("molmo2", n) for n in (1, 12, 24, 36)),
    _case("molmo2-8b", use_single_crop_col_tokens=False),
    _case("molmo2-8b", 13, use_single_crop_col_tokens=False),
    Case(
        "molmo2-uneven",
        "molmo2",
        mc.get_spec("molmo2", size=392, overlap_margins=(2, 5), pooling_size=(3, 2)),
        {"size": {"height": 392, "width": 392}, "overlap_margins": [2, 5], "pooling_size": [3, 2]},
        window=294,
        margin=98,
    ),
]
