"""What the images of a batch need, and which row they are in: the parts of the guard that know no batch's keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from maxcrops.exceptions import UnsupportedError
from maxcrops.specs import Spec
from maxcrops.specs._rules import Stitched

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageNeeds:
    """What images need, image by image in the batch's order."""

    evidence: str
    tokens: Counts
    """[N]"""
    owner: Counts | None = None
    """[N], the sample that an image belongs to; None where nobody says."""
    num_owners: int = 0
    crops: Counts | None = None
    """[N]"""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of each, where they are known."""


def expected_of_rows(need: ImageNeeds, found: Counts) -> tuple[Counts, Counts]:
    """Image tokens that each row should hold, and the row of each image."""
    import numpy as np

    rows = len(found)
    if need.owner is not None and need.num_owners == rows:
        expected = np.zeros(rows, dtype=np.int64)
        np.add.at(expected, need.owner, need.tokens)
        return expected, need.owner
    # Rows are runs of whole units, a sample's images or one image, in order: each row must end where a unit does.
    unit = np.arange(len(need.tokens)) if need.owner is None else need.owner
    per_unit = np.bincount(unit, weights=need.tokens).astype(np.int64) if len(unit) else np.zeros(0, dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(per_unit)])
    have = np.cumsum(found)
    should = ends[np.minimum(np.searchsorted(ends, have), len(ends) - 1)]
    expected = found.copy()
    off = np.flatnonzero(should != have)
    if len(off):
        expected[off[0]] += should[off[0]] - have[off[0]]
    elif rows and have[-1] < ends[-1]:
        expected[-1] += ends[-1] - have[-1]
    row = np.minimum(np.searchsorted(np.cumsum(expected), ends[:-1], side="right"), max(rows - 1, 0))
    return expected, row[unit]


def first_cut_owner(need: ImageNeeds, mine: Counts, kept: int) -> int | None:
    """The sample of the first of a row's images that is not whole, if the row was cut behind."""
    import numpy as np

    if need.owner is None or not len(mine):
        return None
    index = int(np.searchsorted(np.cumsum(need.tokens[mine]), kept, side="right"))
    return int(need.owner[mine[min(index, len(mine) - 1)]])


def first_short(asked: Counts, available: int) -> tuple[int, int] | None:
    """(image, what there is of it) of the first that is not whole."""
    import numpy as np

    ends = np.cumsum(asked)
    if not len(ends) or ends[-1] <= available:
        return None
    index = int(np.searchsorted(ends, available, side="right"))
    return index, int(available - (ends[index] - asked[index]))


def owners_of_images(samples: Sequence[Any] | None, total: int) -> tuple[Counts | None, int]:
    """Whose each image is, by the samples' own processor outputs."""
    import numpy as np

    for key in ("image_grids", "image_num_crops"):
        own = [sample.get(key) if isinstance(sample, Mapping) else None for sample in samples or ()]
        numbers = [0 if value is None else len(value) for value in own]
        if sum(numbers) == total and total:
            return np.repeat(np.arange(len(numbers)), numbers), len(numbers)
    return None, 0


def length_of(ids: Any) -> int:
    """Of [tokens] or [1, tokens]."""
    shape = getattr(ids, "shape", None)
    return int(shape[-1]) if shape else len(ids)


def pairs(sizes: Any) -> list[tuple[int, int]]:
    """(height, width) pairs; one pair alone is one image, None is none."""
    if sizes is None:
        return []
    listed = sizes.tolist() if hasattr(sizes, "tolist") else [tuple(p) if hasattr(p, "__len__") else p for p in sizes]
    if listed and not isinstance(listed[0], (list, tuple)):
        listed = [listed]
    if any(len(pair) != 2 for pair in listed):
        raise ValueError(f"[guard] sizes must be (height, width) pairs, got {sizes!r}")
    return [(int(height), int(width)) for height, width in listed]


def cpu_array(value: Any, name: str) -> Any:
    """NumPy's view of an array, a list, or a tensor in the CPU's memory."""
    import numpy as np

    device = getattr(getattr(value, "device", None), "type", "cpu")
    if device != "cpu":
        raise UnsupportedError(f"[guard] {name} on {device} would make the host wait; check a batch before it moves")
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def runs_of(ids: list[int]) -> tuple[tuple[int, int], ...]:
    """Sorted ids as (first, last) of runs of consecutive ones."""
    runs: list[tuple[int, int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return tuple(runs)


def without_separators(spec: Spec) -> Spec:
    """The spec whose sequence tokens are only those that a feature fills."""
    zeroed: dict[str, Any] = {
        f.name: type(getattr(spec.tokens, f.name))()  # 0 or False
        for f in dataclasses.fields(spec.tokens)
        if f.name in _SEPARATORS
    }
    return spec.replace(**zeroed)


_SEPARATORS = {
    "crop_extra_tokens", "row_end_tokens", "row_separator_tokens", "global_extra_tokens", "image_extra_tokens",
    "split_extra_tokens", "col_tokens", "low_res_col_tokens", "start_end_tokens", "low_res_start_end_tokens",
}  # fmt: skip


def ids_of(source: Any, spec: Spec) -> list[int]:
    """Image-token ids that a processor or a model configuration names.

    Molmo's and Molmo2's list every token of an image. All others name their placeholder; what else they list need not
    be all separators that a spec counts (line breaks, tags).
    """
    if source is None:
        raise ValueError("[guard] image_token_ids must be given, or a processor that names them")
    tokenizer = getattr(source, "tokenizer", None)
    special = getattr(source, "special_token_ids", None)
    listed: list[Any]
    if isinstance(special, Mapping):  # Molmo's; <|image|> stands for an image in prompts
        listed = [i for token, i in special.items() if token != "<|image|>"]
    elif hasattr(source, "image_patch_id"):  # Molmo2's configuration
        names = ["image_patch_id", "image_col_id", "image_start_token_id", "image_end_token_id"]
        listed = [getattr(source, name, None) for name in [*names, "low_res_image_start_token_id"]]
    elif isinstance(spec.tokens, Stitched) and spec.tokens.start_end_tokens:
        listed = list(getattr(source, "image_token_ids", None) or ())
    else:
        # Where a processor has both, image_token is what a prompt writes for a whole image (Gemma 3, Llama 4).
        patch = getattr(source, "img_patch_token", None)
        listed = [None if patch is None or tokenizer is None else tokenizer.convert_tokens_to_ids(patch)]
        listed += [getattr(tokenizer, "image_token_id", None)]
        listed += [getattr(source, name, None) for name in ("image_token_id", "image_token_index")]
        listed = [i for i in listed if i is not None][:1]
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = [i for i in listed if i is not None and i != unknown]
    if not ids:
        raise ValueError(f"[guard] {type(source).__name__} names no image token; give image_token_ids")
    return ids
