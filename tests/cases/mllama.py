from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(key: str, max_image_tiles: int | None = None) -> Case:
    spec = mc.get_spec(key)
    upstream = {"size": spec.crop_size, "max_image_tiles": max_image_tiles or 4}
    return Case(f"{key}-{max_image_tiles or 4}", "mllama", spec, upstream, max_image_tiles)


CASES = [
    case("mllama"),
    case("llama-3.2-11b-vision"),
    case("llama-3.2-11b-vision-instruct", 9),
    case("llama-3.2-11b-vision-instruct"),
    *(case("llama-3.2-90b-vision", n) for n in (1, 2, 24)),
]
