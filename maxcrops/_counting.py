"""Counts of many images at once: documented faces of the core's batch loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from maxcrops import _core
from maxcrops._arguments import require_arguments, require_threads
from maxcrops.specs import Spec

if TYPE_CHECKING:  # NumPy is imported where arrays are made: what needs none starts sooner
    import numpy as np
    import numpy.typing as npt

CountName: TypeAlias = Literal["sequence_tokens", "connector_outputs", "vit_patches", "crops", "cross_attention_keys"]
"""What is counted. Positions in the language model's sequence, features that the adapter computes, patches that the
vision encoder computes, the crops that it sees, and the keys that cross-attention layers read instead of tokens are
never mixed."""


def count_tokens(
    spec: Spec,
    sizes: npt.ArrayLike,
    *,
    max_crops: int | None = None,
    count: CountName = "sequence_tokens",
    num_threads: int = 1,
) -> npt.NDArray[np.int64]:
    """What each of many images costs, without touching pixels and without the GIL.

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        sizes: integers [N, 2], (height, width) in pixels; int64 in C order is read in place.
        max_crops: sets the model's own knob, in local crops; the spec's setting where None.
        count: what to count.
        num_threads: threads to use, 1 or more; the result is the same for any number.

    Returns:
        int64 [N]; also where the model's own processor raises, as ``layout(...).is_refused`` tells.

    Raises:
        TypeError: sizes are not integers.
        ValueError: a wrong shape, a side or a knob out of range; the message names the first such row.

    >>> from maxcrops import get_spec
    >>> count_tokens(get_spec("molmo-7b-d"), [(1080, 1920), (100, 100)])
    array([1196,  316])
    """
    import numpy as np

    array = _as_sizes("count_tokens", sizes)
    knob_and_threads = _batch_arguments("count_tokens", spec, max_crops, num_threads)
    out = np.empty(len(array), dtype=np.int64)
    _core.count_batch(spec._core, array, out, _count(count), *knob_and_threads)
    return out


def grids(
    spec: Spec, sizes: npt.ArrayLike, *, max_crops: int | None = None, num_threads: int = 1
) -> npt.NDArray[np.int64]:
    """(rows, cols) of local crops of each image, int64 [N, 2]. Arguments and errors as for ``count_tokens``."""
    import numpy as np

    array = _as_sizes("grids", sizes)
    knob_and_threads = _batch_arguments("grids", spec, max_crops, num_threads)
    out = np.empty((len(array), 2), dtype=np.int64)
    _core.grid_batch(spec._core, array, out, *knob_and_threads)
    return out


def scales(
    spec: Spec, sizes: npt.ArrayLike, *, max_crops: int | None = None, num_threads: int = 1
) -> npt.NDArray[np.float64]:
    """Linear scale of each image's detail, float64 [N]: the smaller of both axes over all resizes of its local view.

    Below 1, the image is shrunk and detail is lost. Arguments and errors as for ``count_tokens``.
    """
    import numpy as np

    array = _as_sizes("scales", sizes)
    knob_and_threads = _batch_arguments("scales", spec, max_crops, num_threads)
    out = np.empty(len(array), dtype=np.float64)
    _core.scale_batch(spec._core, array, out, *knob_and_threads)
    return out


def _count(name: str) -> _core.Count:
    try:
        return _core.Count[name.upper()]
    except (KeyError, AttributeError):
        known = ", ".join(member.name.lower() for member in _core.Count)
        raise ValueError(f"[count] count must be one of {known}, got {name!r}") from None


def _batch_arguments(operation: str, spec: object, max_crops: int | None, num_threads: int) -> tuple[int | None, int]:
    require_arguments(operation, spec, max_crops=max_crops)
    require_threads(operation, num_threads)
    return max_crops, num_threads


def _as_sizes(operation: str, sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """C-contiguous int64 [N, 2], without a copy where it is that already."""
    import numpy as np

    array = np.asarray(sizes)
    if array.size == 0 and array.ndim <= 2:
        return np.empty((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"[{operation}] sizes must have shape [N, 2] with (height, width) rows, got shape {list(array.shape)}"
        )
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{operation}] sizes must be integers of at most 64 bits, got dtype {array.dtype}")
    if array.dtype == np.uint64 and bool((array > np.uint64(2**63 - 1)).any()):
        row = int(np.flatnonzero((array > np.uint64(2**63 - 1)).any(axis=1))[0])
        raise ValueError(f"[{operation}] sizes[{row}] must be in 1..{_core.MAX_SIDE} pixels, got {array[row].tolist()}")
    return np.ascontiguousarray(array, dtype=np.int64)
