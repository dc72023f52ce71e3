from __future__ import annotations

import maxcrops as mc
from cases import Case


def case(max_dynamic_patch: int = 6, min_dynamic_patch: int = 1) -> Case:
    """Up to 9 crops: beyond, a tag has two digits, each a token."""
    settings = {"max_dynamic_patch": max_dynamic_patch, "min_dynamic_patch": min_dynamic_patch}
    name = f"nvlm_d-{min_dynamic_patch}..{max_dynamic_patch}"
    return Case(name, "nvlm_d", mc.get_spec("nvlm_d", **settings), settings)


CASES = [case(), case(1), case(2), case(9), case(8, 3)]
