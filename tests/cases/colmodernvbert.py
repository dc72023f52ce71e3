from __future__ import annotations

from cases import Case
from cases.idefics3 import case

CASES: list[Case] = [
    case("colmodernvbert", "colmodernvbert"),
    *(case("colmodernvbert", "colmodernvbert", edge) for edge in (364, 1000)),
    case("colmodernvbert", "colmodernvbert-250m"),
    *(case("colmodernvbert", "colmodernvbert-250m", edge) for edge in (1455, 5000)),
    *(case("colmodernvbert", "colmodernvbert-250m", max_crops=n) for n in (1, 5, 30)),
]
