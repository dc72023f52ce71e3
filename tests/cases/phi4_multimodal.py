from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(dynamic_hd: int, max_crops: int | None = None) -> Case:
    spec = mc.get_spec("phi4_multimodal", dynamic_hd=dynamic_hd)
    name = f"phi4_multimodal-{dynamic_hd}" + (f"-{max_crops}" if max_crops else "")
    return Case(name, "phi4_multimodal", spec, {"dynamic_hd": max_crops or dynamic_hd}, max_crops)


CASES = [case(36), case(1), case(16), case(5), case(36, max_crops=12), case(36, max_crops=2), case(61)]
