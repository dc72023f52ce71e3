"""Exact bounds over all image sizes, and their inverse: documented faces of the core."""

from __future__ import annotations

from dataclasses import dataclass

from maxcrops import _core
from maxcrops._arguments import require_arguments
from maxcrops._counting import CountName, _count
from maxcrops.exceptions import BudgetTooSmallError
from maxcrops.specs import Spec


@dataclass(frozen=True)
class Bound:
    """The most that any image costs, and an image that costs it."""

    tokens: int
    """The maximum over all image sizes, of whatever was asked for; sequence tokens unless said otherwise."""
    grid: tuple[int, int]
    """(rows, cols) of local crops of the witness."""
    witness: tuple[int, int]
    """(height, width) in pixels of an image that attains it."""


def worst_case(spec: Spec, *, max_crops: int | None = None, count: CountName = "sequence_tokens") -> Bound:
    """The exact maximum over all image sizes.

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        max_crops: sets the model's own knob, in local crops; the spec's setting where None.
        count: what to count.

    Returns:
        A Bound; counting an image of ``bound.witness`` gives exactly ``bound.tokens``.

    Raises:
        ValueError: max_crops out of range.
        TypeError: something else than an integer.

    Every grid that the model can choose is made by some image, so the maximum over all images is the one over grids.
    Where a column token ends each row of features, the tallest grid costs most, not the largest image.

    >>> from maxcrops import get_spec
    >>> worst_case(get_spec("molmo-7b-d"), max_crops=12)
    Bound(tokens=1460, grid=(12, 1), witness=(2800, 336))
    """
    require_arguments("worst_case", spec, max_crops=max_crops)
    tokens, layout = _core.worst_case(spec._core, max_crops, _count(count))
    return Bound(tokens=tokens, grid=layout.grid, witness=(layout.height, layout.width))


def largest_max_crops(spec: Spec, *, max_tokens: int, count: CountName = "sequence_tokens") -> int:
    """The largest max_crops at which no image costs more than max_tokens.

    It fits, and the next one does not; unless the model's knob ends there (``spec.max_crops_range``).

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        max_tokens: what one image may cost, such as the sequence length less the text.
        count: what to count.

    Raises:
        BudgetTooSmallError: the smallest max_crops exceeds max_tokens already; the message says by how much.
        TypeError: max_tokens is no integer.

    >>> from maxcrops import get_spec
    >>> largest_max_crops(get_spec("molmo-7b-d"), max_tokens=4096 - 512)
    32
    """
    require_arguments("largest_max_crops", spec, max_tokens=max_tokens)
    largest = _core.largest_max_crops(spec._core, _count(count), max_tokens)
    if largest is None:
        first = spec.max_crops_range[0]
        needed = worst_case(spec, max_crops=first, count=count).tokens
        raise BudgetTooSmallError(
            f"[largest_max_crops] max_tokens must be >= {needed} (the worst case of {spec.key} at max_crops={first}),"
            f" got {max_tokens}"
        )
    return largest
