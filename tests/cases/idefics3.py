from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(oracle: str, key: str, longest_edge: int | None = None, max_crops: int | None = None) -> Case:
    """`longest_edge` changes the spec's; max_crops sets it to an even multiple of the tile."""
    spec = mc.get_spec(key) if longest_edge is None else mc.get_spec(key, longest_edge=longest_edge)
    edge, tile = spec.longest_edge, spec.crop_size
    if max_crops is not None:
        side = max(s for s in range(1, 100) if s * s <= max_crops and (s - 1) * tile < 4096)
        edge = side * tile // 2 * 2
    upstream = {"longest_edge": edge, "tile": tile, "image_seq_len": spec.tokens_per_crop}
    name = f"{key}-edge{edge}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, oracle, spec, upstream, max_crops)


CASES = [
    case("idefics3", "idefics3"),
    *(case("idefics3", "idefics3", edge) for edge in (364, 1000, 1455, 5000)),
    *(case("idefics3", "idefics3", max_crops=n) for n in (1, 5, 9, 30, 500)),
    case("idefics3", "smolvlm-instruct"),
    case("idefics3", "smolvlm-256m-instruct"),
    *(case("smolvlm", "smolvlm2-256m-video-instruct", edge) for edge in (None, 1000, 1455, 5000)),
    *(case("smolvlm", "smolvlm2-256m-video-instruct", max_crops=n) for n in (2, 4, 70)),
    case("smolvlm", "smolvlm2-2.2b-instruct"),
    case("smolvlm", "smolvlm"),
]
