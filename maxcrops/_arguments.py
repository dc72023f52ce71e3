"""Errors for arguments that the core cannot take, in words of the caller's."""

from __future__ import annotations

from maxcrops import _core
from maxcrops.specs import Spec


def require_arguments(operation: str, spec: object, **numbers: object) -> None:
    """Raises for the first argument that is no Spec, no integer, or beyond the core's integers.

    Ranges are the core's to check. A max_crops of None means the spec's own setting.
    """
    if not isinstance(spec, Spec):
        raise TypeError(f"[{operation}] spec must be a Spec (get_spec or load_spec makes one), got {spec!r}")
    for name, value in numbers.items():
        if value is None and name == "max_crops":
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"[{operation}] {name} must be an integer, got {value!r}")
        if not -(2**63) <= int(value.__index__()) < 2**63:
            limit = _core.MAX_CROPS_LIMIT if name == "max_crops" else _core.MAX_SIDE
            raise ValueError(f"[{operation}] {name} must be in 1..{limit}, got {value}")
