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
            limits = {"max_crops": _core.MAX_CROPS_LIMIT, "height": _core.MAX_SIDE, "width": _core.MAX_SIDE}
            raise ValueError(f"[{operation}] {name} must be in 1..{limits.get(name, 2**63 - 1)}, got {value}")


def require_threads(operation: str, num_threads: object) -> None:
    """Raises unless num_threads is an integer in 1..1024."""
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"[{operation}] num_threads must be an integer, got {num_threads!r}")
    if not 1 <= int(num_threads.__index__()) <= 1024:
        raise ValueError(f"[{operation}] num_threads must be in 1..1024, got {num_threads}")
