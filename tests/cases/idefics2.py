from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(key: str, split: bool, image_seq_len: int = 64) -> Case:
    spec = mc.get_spec(key, do_image_splitting=split, image_seq_len=image_seq_len)
    upstream = {"do_image_splitting": split, "image_seq_len": image_seq_len}
    return Case(f"{key}-{'split' if split else 'whole'}-{image_seq_len}", "idefics2", spec, upstream)


CASES = [
    case("idefics2", False),
    case("idefics2", False, 13),
    case("idefics2-8b", True),
    case("idefics2-8b", True, 7),
]
