"""Exact bounds over all image sizes, and their inverse: documented faces of the core."""

from __future__ import annotations

from dataclasses import dataclass, field

from maxcrops import _core
from maxcrops._arguments import require_arguments, require_threads
from maxcrops._counting import CountName, _count
from maxcrops.exceptions import BudgetTooSmallError, UnboundedError
from maxcrops.specs import Spec

LARGEST_SIDE = 1 << 15
"""Pixels; where every size up to it has to be tried, that takes a minute."""


@dataclass(frozen=True)
class SizeLimit:
    """The images that a bound is to hold for."""

    max_side: int
    """Pixels."""
    max_ratio: float | None = None
    """Of the long side to the short one."""
    num_threads: int = field(default=1, compare=False)
    """That try sizes, where every one within it has to be tried."""


@dataclass(frozen=True)
class Bound:
    """The most that any image costs, and an image that costs it."""

    tokens: int
    """The maximum over all image sizes, of whatever was asked for; sequence tokens unless said otherwise."""
    grid: tuple[int, int]
    """(rows, cols) of local crops of the witness."""
    witness: tuple[int, int]
    """(height, width) in pixels of an image that attains it."""


def worst_case(
    spec: Spec,
    *,
    max_crops: int | None = None,
    count: CountName = "sequence_tokens",
    max_side: int | None = None,
    max_ratio: float | None = None,
    num_threads: int = 1,
) -> Bound:
    """The exact maximum over all image sizes, or over those within a limit.

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        max_crops: sets the model's own knob, in local crops; the spec's setting where None.
        count: what to count.
        max_side: longest side of the images considered, pixels. Only models whose cost grows with the image's ratio
            need it, and take milliseconds; for some of the others every size up to it is tried, a second for 4096.
        max_ratio: largest ratio of the long side to the short one, with max_side.
        num_threads: threads that try sizes.

    Returns:
        A Bound; counting an image of ``bound.witness`` gives exactly ``bound.tokens``.

    Raises:
        UnboundedError: the cost grows with the image's ratio; the message says why. Give max_side.
        ValueError: max_crops, max_side or max_ratio out of range.
        TypeError: something else than a number.

    Every grid that the model can choose is made by some image, so the maximum over all images is the one over grids.
    Where a column token ends each row of features, the tallest grid costs most, not the largest image. Within a limit,
    images that the model's own processor raises for are left out.

    >>> from maxcrops import get_spec
    >>> worst_case(get_spec("molmo-7b-d"), max_crops=12)
    Bound(tokens=1460, grid=(12, 1), witness=(2800, 336))
    """
    require_arguments("worst_case", spec, max_crops=max_crops)
    limit = size_limit("worst_case", max_side, max_ratio, num_threads)
    return bounds("worst_case", spec, max_crops, (count,), limit)[count]


def bounds(
    operation: str, spec: Spec, max_crops: int | None, counts: tuple[CountName, ...], limit: SizeLimit | None
) -> dict[CountName, Bound]:
    """The bounds of several counts, which take no longer than one where every size within a limit has to be tried."""
    if limit is None:
        for count in counts:
            if not is_bounded(spec, count):
                what = "" if count == "sequence_tokens" else f" of {count}"
                why = spec.unbounded or "a crop keeps its ratio and costs what its size makes, however thin it is"
                raise UnboundedError(
                    f"[{operation}] {spec.key} has no worst case{what}: {why}; give the longest side of your images,"
                    " max_side=4096, say, and max_ratio if you know it"
                )
        found = [_core.worst_case(spec._core, max_crops, _count(count)) for count in counts]
    else:
        found = _core.worst_cases(spec._core, max_crops, [_count(count) for count in counts], _lower(limit))
    return {
        count: Bound(tokens=tokens, grid=layout.grid, witness=(layout.height, layout.width))
        for count, (tokens, layout) in zip(counts, found, strict=True)
    }


def largest_max_crops(
    spec: Spec,
    *,
    max_tokens: int,
    count: CountName = "sequence_tokens",
    max_side: int | None = None,
    max_ratio: float | None = None,
    num_threads: int = 1,
) -> int:
    """The largest max_crops at which no image costs more than max_tokens.

    It fits, and the next one does not; unless the model's knob ends there (``spec.max_crops_range``).

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        max_tokens: what one image may cost, such as the sequence length less the text.
        count: what to count.
        max_side, max_ratio, num_threads: as for ``worst_case``.

    Raises:
        BudgetTooSmallError: the smallest max_crops exceeds max_tokens already; the message says by how much.
        UnboundedError: as for ``worst_case``.
        TypeError: max_tokens is no integer.

    >>> from maxcrops import get_spec
    >>> largest_max_crops(get_spec("molmo-7b-d"), max_tokens=4096 - 512)
    32
    """
    require_arguments("largest_max_crops", spec, max_tokens=max_tokens)
    limit = size_limit("largest_max_crops", max_side, max_ratio, num_threads)
    first = spec.max_crops_range[0]
    needed = bounds("largest_max_crops", spec, first, (count,), limit)[count].tokens
    largest = _core.largest_max_crops(spec._core, _count(count), max_tokens, None if limit is None else _lower(limit))
    if largest is None:
        raise BudgetTooSmallError(
            f"[largest_max_crops] max_tokens must be >= {needed} (the worst case of {spec.key} at max_crops={first}),"
            f" got {max_tokens}"
        )
    return largest


def is_bounded(spec: Spec, count: CountName = "sequence_tokens") -> bool:
    """Whether the count has a maximum over all image sizes. ``spec.unbounded`` says why where it has none."""
    return _core.is_bounded(spec._core, _count(count))


def size_limit(operation: str, max_side: int | None, max_ratio: float | None, num_threads: int = 1) -> SizeLimit | None:
    """The limit that two arguments mean, checked; None for all images."""
    require_threads(operation, num_threads)
    if max_side is None:
        if max_ratio is not None:
            raise ValueError(f"[{operation}] max_ratio needs max_side beside it: max_side=4096, say")
        return None
    if isinstance(max_side, bool) or not hasattr(max_side, "__index__"):
        raise TypeError(f"[{operation}] max_side must be an integer, got {max_side!r}")
    if not 1 <= max_side <= LARGEST_SIDE:
        raise ValueError(f"[{operation}] max_side must be in 1..{LARGEST_SIDE} pixels, got {max_side}")
    if isinstance(max_ratio, bool) or not isinstance(max_ratio, (int, float, type(None))):
        raise TypeError(f"[{operation}] max_ratio must be a number, got {max_ratio!r}")
    if max_ratio is not None and not 1 <= max_ratio < float("inf"):
        raise ValueError(f"[{operation}] max_ratio must be at least 1, got {max_ratio!r}")
    return SizeLimit(int(max_side), max_ratio, int(num_threads))


def _lower(limit: SizeLimit) -> _core.SizeLimit:
    return _core.SizeLimit(limit.max_side, float(limit.max_ratio or 0), limit.num_threads)
