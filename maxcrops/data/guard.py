"""A guard between the data loader and the step: no image token is cut off in silence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from maxcrops._arguments import require_arguments
from maxcrops._bounds import largest_max_crops
from maxcrops._counting import count_tokens
from maxcrops.data._image_needs import (
    ImageNeeds,
    cpu_array,
    expected_of_rows,
    first_cut_owner,
    first_short,
    ids_of,
    length_of,
    owners_of_images,
    pairs,
    runs_of,
    without_separators,
)
from maxcrops.exceptions import (
    BudgetTooSmallError,
    TruncatedImageError,
    TruncatedRow,
    UnboundedError,
    UnsupportedError,
)
from maxcrops.specs import Spec
from maxcrops.specs._rules import Stitched

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Counts: TypeAlias = npt.NDArray[np.int64]

__all__ = ["Guard", "Lengths", "guard"]

_logger = logging.getLogger(__name__)

Counted: TypeAlias = Literal["sequence", "features"]
"""What image_token_ids stand for: every position that an image takes, or those alone that a feature fills."""

_IDENTITIES = ("id", "sample_id", "path", "image_path", "file_name")
_PIXELS = ("pixel_values", "images", "image_grids", "image_input_idx")
_VIDEOS = ("pixel_values_videos", "video_grids")
_PLACEHOLDER_ALONE = ("deepseek_ocr2", "mllama")  # tiled, and every token of an image is the placeholder
_NAMED_ROWS = 8  # of one batch in a message; the exception has all


@dataclass(frozen=True)
class Lengths:
    """A batch's rows in tokens, padding left out, int64 [rows] each."""

    real: Counts
    """As the batch holds them."""
    predicted: Counts
    """With every image token that the row's images need."""
    truncated: tuple[TruncatedRow, ...]
    """Empty unless on_truncation is "warn"."""


class Guard:
    """Refuses a batch in which image tokens, crops or index rows of an image are missing, before the step.

    **Truncated** is a row that does not hold, among its first max_sequence_length tokens (padding left out), exactly
    as many image tokens as its images need; or one of whose images lacks crops or index rows. More image tokens than
    the images need is the same defect from its other side: tokens were kept, crops or images were not.

    **Image tokens** are the positions of ``input_ids`` that hold one of image_token_ids. **What images need** comes
    from all of this evidence that is there, and all of it must agree:

    - sizes: (height, width) of each image of each sample, counted with the spec;
    - ``image_grids``, ``image_num_crops``, ``image_token_pooling``, ``pixel_values``: Molmo2's own outputs;
    - ``image_input_idx``: Molmo's, which says where in its row each feature goes;
    - ``pixel_values`` [crops, channels, height, width] of other families, against the sizes.

    Samples say whose an image is: sample i is row i where there are as many rows as samples; fewer rows are packed, in
    the order of the samples. Without samples, images are given to rows in order, and the row that is named is the
    first that does not add up; an image that is lost as a whole may then be told of the next row.

    **Not checked**: text, and tags that a tokenizer spells with ids that are not among image_token_ids; that two
    images of equal cost are not exchanged; crops that a family pads (``pixel_values`` of five dimensions and more);
    sizes that are not those of the images, as after a resize of one's own. A batch with videos is refused, as they
    share the images' token ids.

    Arrays are NumPy's, lists, or tensors in the CPU's memory: nothing waits for a device. A Guard can be pickled, for
    workers that are spawned, when its collate function and its ``sizes`` can.

    Args:
        spec: from ``get_spec`` or ``load_spec``, with the settings of the processor that made the batch.
        max_sequence_length: tokens that a step takes; the spec's own where None.
        image_token_ids: ids of an image's tokens; where None, those of the processor.
        processor: a processor or model configuration that names them. Ovis2's does not: give the id of <IMG_ATOM>.
        counted: "sequence" where image_token_ids are of every position that an image takes, separators included
            (Molmo; LLaVA, whose one placeholder fills them all); "features" where they are the placeholder alone
            (InternVL, Idefics3). None: "sequence" for several ids and for families that write nothing else, otherwise
            "features".
        max_crops: as for ``count_tokens``.
        margin: tokens; a row with fewer to spare is told in a warning, none with 0.
        on_truncation: "raise" a TruncatedImageError, or "warn": log the same message and pass the batch on.
        pad_token_id: tells padding where a batch has no ``attention_mask``.
        sizes: the key of a sample's (height, width) pairs, or of all images' in the batch; or a function of a sample.
        identity: the key of a sample's name for messages; where None, the first of id, sample_id, path, image_path
            and file_name that it has.
        collate: a function of a list of samples, for the Guard to be called in its place.

    Raises:
        TypeError, ValueError: an argument is wrong, or neither image_token_ids nor the processor name ids.

    >>> import numpy as np
    >>> from maxcrops import get_spec
    >>> check = Guard(get_spec("llava_next"), max_sequence_length=4096, image_token_ids=[7]).check
    >>> check({"input_ids": np.array([[1] * 5 + [7] * 1000])}, sizes=[[(480, 640)]])
    Traceback (most recent call last):
    ...
    maxcrops.exceptions.TruncatedImageError: [guard] row 0 holds 1000 of 2020 image tokens (by sizes); lower \
max_crops to 8 for this row, or raise the sequence length from 1005 to 2025 or more, as text may be cut off too
    """

    def __init__(
        self,
        spec: Spec,
        *,
        max_sequence_length: int | None = None,
        image_token_ids: Sequence[int] | None = None,
        processor: Any = None,
        counted: Counted | None = None,
        max_crops: int | None = None,
        margin: int = 100,
        on_truncation: Literal["raise", "warn"] = "raise",
        pad_token_id: int | None = None,
        sizes: str | Callable[[Any], Any] = "sizes",
        identity: str | None = None,
        collate: Callable[[Any], Any] | None = None,
    ) -> None:
        length = spec.max_sequence_length if max_sequence_length is None and isinstance(spec, Spec) else None
        length = max_sequence_length if length is None else length
        require_arguments("guard", spec, max_crops=max_crops, max_sequence_length=length, margin=margin)
        assert length is not None
        if length < 1 or margin < 0:
            raise ValueError(
                f"[guard] max_sequence_length must be >= 1 and margin >= 0, got {max_sequence_length}, {margin}"
            )
        for name, value, known in (
            ("on_truncation", on_truncation, ("raise", "warn")),
            ("counted", counted, (None, "sequence", "features")),
        ):
            if value not in known:
                raise ValueError(f"[guard] {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        ids = sorted({int(i) for i in (ids_of(processor, spec) if image_token_ids is None else image_token_ids)})
        if not ids:
            raise ValueError("[guard] image_token_ids must hold the ids of an image's tokens, got none")
        if counted is None:
            fills_all = isinstance(spec.tokens, Stitched) or spec.family in _PLACEHOLDER_ALONE
            counted = "sequence" if len(ids) > 1 or fills_all else "features"
        self.spec = spec
        self.max_sequence_length = int(length)
        self.image_token_ids = tuple(ids)
        self.counted = counted
        self.max_crops = max_crops
        self.margin = margin
        self.on_truncation = on_truncation
        self.pad_token_id = pad_token_id
        self.sizes = sizes
        self.identity = identity
        self.collate = collate
        self._counting = spec if counted == "sequence" else without_separators(spec)
        self._runs = runs_of(ids)

    def __call__(self, samples: Any) -> Any:
        """The collate function's batch of these samples, checked."""
        if self.collate is None:
            raise TypeError("[guard] collate must be a function of samples to call the Guard, got None; use check()")
        samples = list(samples)
        batch = self.collate(samples)
        self.check(batch, samples)
        return batch

    def around(self, collate: Callable[[Any], Any]) -> Guard:
        """A copy with another collate function."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self), collate=collate)
        return copied

    def check(
        self, batch: Mapping[str, Any], samples: Sequence[Any] | None = None, *, sizes: Sequence[Any] | None = None
    ) -> Lengths:
        """Refuses a batch that is truncated, and logs its lengths.

        Args:
            batch: ``input_ids`` [rows, tokens] or [tokens], and what else the processor made.
            samples: what the batch was made of: mappings with ``sizes``, ``image_grids`` or ``image_num_crops``.
            sizes: for each row (for each sample, where samples are given) the (height, width) of its images.

        Raises:
            TruncatedImageError: with on_truncation "raise"; all rows are in its ``rows``.
            UnsupportedError: images without evidence, videos, or ids on a device.
            TypeError, ValueError: a batch that is no mapping, without input_ids, or of the wrong shape.
        """
        import numpy as np

        ids, valid = self._tokens(batch)
        length = np.count_nonzero(valid, axis=1)
        image = self._is_image(ids)
        image &= valid
        if ids.shape[1] > self.max_sequence_length:
            image &= np.cumsum(valid, axis=1) <= self.max_sequence_length
        found = np.count_nonzero(image, axis=1)

        needs = self._needs(batch, samples, sizes)
        placed = batch.get("image_input_idx")
        if not needs and placed is None and (found.any() or any(batch.get(key) is not None for key in _PIXELS)):
            raise UnsupportedError(
                "[guard] the batch has images and nothing that says what they need; give sizes, or pass on the"
                " processor's image_grids or image_input_idx"
            )
        own = self._own_lengths(samples, len(length))
        full = np.maximum(length, own)
        rows: dict[int, TruncatedRow] = {}
        predicted = full
        of_images = [expected_of_rows(need, found) for need in needs]
        for need, (expected, row_of_image) in zip(needs, of_images, strict=True):
            predicted = np.maximum(predicted, length - found + expected)
            for row in np.flatnonzero(found != expected).tolist():
                kept, asked = int(found[row]), int(expected[row])
                mine = np.flatnonzero(row_of_image == row)
                fix = self._fix(need, mine, kept, asked, int(length[row]), int(predicted[row]), ids.shape[1])
                if kept < asked and own[row] < predicted[row]:
                    fix += " or more, as text may be cut off too"
                what = f"holds {kept} of {asked} image tokens (by {need.evidence})"
                culprit = first_cut_owner(need, mine, kept)
                rows.setdefault(row, TruncatedRow(row, self._name(samples, row, culprit), kept, asked, what, fix))
        if needs:
            need, row_of_image = needs[0], of_images[0][1]
            for what, index, kept, asked, fix in self._missing_crops(batch, need):
                if kept > asked and rows:  # what is short of them is told already
                    continue
                row = int(row_of_image[index]) if len(row_of_image) else 0
                owner = None if need.owner is None else int(need.owner[index])
                rows.setdefault(row, TruncatedRow(row, self._name(samples, row, owner), kept, asked, what, fix))
        if placed is not None:
            for truncated in self._misplaced(placed, image, found, samples):
                rows.setdefault(truncated.row, truncated)

        truncated_rows = tuple(rows[row] for row in sorted(rows))
        self._report(length, predicted, samples, whole=np.array([row not in rows for row in range(len(length))]))
        if truncated_rows:
            self._refuse(truncated_rows)
        return Lengths(length, predicted, truncated_rows)

    # -- what the batch holds --------------------------------------------------------------------------------------

    def _tokens(self, batch: Mapping[str, Any]) -> tuple[Counts, npt.NDArray[np.bool_]]:
        """Ids [rows, tokens], and which of them are not padding."""
        import numpy as np

        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise TypeError(f"[guard] batch must be a mapping with input_ids, got {type(batch).__name__}")
        if videos := [key for key in _VIDEOS if batch.get(key) is not None]:
            raise UnsupportedError(f"[guard] a batch with {videos[0]} cannot be checked; guard batches of images")
        given = batch["input_ids"]
        if isinstance(given, (list, tuple)) and given and not isinstance(given[0], (int, np.integer)):
            ragged = [cpu_array(row, "input_ids") for row in given]
            lengths = np.array([len(row) for row in ragged])
            inside = np.arange(lengths.max()) < lengths[:, None]
            ids = np.full(inside.shape, -1, dtype=np.int64)
            ids[inside] = np.concatenate(ragged)
        else:
            ids = np.atleast_2d(cpu_array(given, "input_ids"))
            inside = None
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"[guard] input_ids must be integers [rows, tokens], got {ids.dtype} {list(ids.shape)}")
        mask = batch.get("attention_mask")
        if inside is not None:
            return ids, inside
        if mask is not None and (mask := np.atleast_2d(cpu_array(mask, "attention_mask"))).shape == ids.shape:
            return ids, mask != 0
        if self.pad_token_id is not None:
            return ids, ids != self.pad_token_id
        return ids, np.ones(ids.shape, dtype=bool)

    def _is_image(self, ids: Counts) -> npt.NDArray[np.bool_]:
        # A run of consecutive ids takes two comparisons, whatever its length; special tokens stand side by side.
        import numpy as np

        result = np.zeros(ids.shape, dtype=bool)
        for first, last in self._runs:
            result |= (ids == first) if first == last else (ids >= first) & (ids <= last)
        return result

    def _own_lengths(self, samples: Sequence[Any] | None, rows: int) -> Counts:
        """Of the samples' own input_ids, which were tokenised before they were collated; 0 where there are none."""
        import numpy as np

        if samples is None or rows not in (1, len(samples)):
            return np.zeros(rows, dtype=np.int64)
        ids = [sample.get("input_ids") if isinstance(sample, Mapping) else None for sample in samples]
        own = np.array([0 if row is None else length_of(row) for row in ids], dtype=np.int64)
        return own if rows == len(samples) else own.sum(keepdims=True)

    def _name(self, samples: Sequence[Any] | None, row: int, owner: int | None) -> str | None:
        index = row if owner is None else owner
        if samples is None or index >= len(samples) or not isinstance(samples[index], Mapping):
            return None
        keys = _IDENTITIES if self.identity is None else (self.identity,)
        name = next((str(samples[index][key]) for key in keys if samples[index].get(key) is not None), None)
        return f"sample {index}" + (f", {name}" if name else "") if index != row or name is None else name

    # -- what its images need --------------------------------------------------------------------------------------

    def _needs(
        self, batch: Mapping[str, Any], samples: Sequence[Any] | None, sizes: Sequence[Any] | None
    ) -> list[ImageNeeds]:
        import numpy as np

        needs = []
        groups = self._sizes_of(samples) if sizes is None else [pairs(group) for group in sizes]
        if groups is not None:
            owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
            needs.append(self._by_sizes([pair for group in groups for pair in group], owner, len(groups)))
        elif isinstance(self.sizes, str) and batch.get(self.sizes) is not None:
            needs.append(self._by_sizes(pairs(batch[self.sizes]), None, 0))
        if batch.get("image_grids") is not None and isinstance(self.spec.tokens, Stitched):
            grids = cpu_array(batch["image_grids"], "image_grids").reshape(-1, 4)
            known = needs[0] if needs else None
            if known is not None and len(known.tokens) == len(grids):
                owner_of, num_owners = known.owner, known.num_owners
            else:
                owner_of, num_owners = owners_of_images(samples, len(grids))
            if known is None or len(known.tokens) == len(grids):
                needs.append(ImageNeeds("image_grids", self._by_grids(grids), owner_of, num_owners))
        return needs

    def _sizes_of(self, samples: Sequence[Any] | None) -> list[list[tuple[int, int]]] | None:
        if samples is None:
            return None
        if callable(self.sizes):
            return [pairs(self.sizes(sample)) for sample in samples]
        given = [sample.get(self.sizes) if isinstance(sample, Mapping) else None for sample in samples]
        return None if all(value is None for value in given) else [pairs(value) for value in given]

    def _by_sizes(self, sizes: list[tuple[int, int]], owner: Counts | None, num_owners: int) -> ImageNeeds:
        tokens = self._count(sizes, self.max_crops)
        crops = count_tokens(self.spec, sizes, max_crops=self.max_crops, count="crops")
        return ImageNeeds("sizes", tokens, owner, num_owners, crops, sizes)

    def _count(self, sizes: list[tuple[int, int]], max_crops: int | None) -> Counts:
        return count_tokens(self._counting, sizes, max_crops=max_crops)

    def _by_grids(self, grids: Counts) -> Counts:
        # Molmo2's (low-resolution rows, cols, rows, cols) of features; the formula is in maxcrops/specs/molmo2.py.
        rule = self._counting.tokens
        assert isinstance(rule, Stitched)
        low_rows, low_cols, rows, cols = grids.astype("int64").T
        low_res: Counts = low_rows * (low_cols + rule.low_res_col_tokens) + rule.low_res_start_end_tokens
        high_res: Counts = rows * (cols + rule.col_tokens) + rule.start_end_tokens
        return low_res + high_res

    def _missing_crops(self, batch: Mapping[str, Any], need: ImageNeeds) -> list[tuple[str, int, int, int, str]]:
        """(what, image, kept, asked, fix) of the first image that lacks something of each kind."""
        import numpy as np

        found = []
        pixels = batch.get("pixel_values")
        shape = () if pixels is None or not hasattr(pixels, "shape") else tuple(pixels.shape)
        counts = batch.get("image_num_crops")
        images = len(need.tokens)
        for key in ("image_grids", "image_num_crops"):
            per_image = batch.get(key)
            if per_image is not None and (kept := len(per_image)) != images:
                what = f"has {key} of {kept} images where {images} are in the batch (by {need.evidence})"
                found.append((what, min(kept, images - 1), kept, images, "keep those of all images"))
        if counts is not None and (counts := cpu_array(counts, "image_num_crops").reshape(-1)) is not None:
            if need.crops is not None:
                padded = np.zeros(images, dtype=np.int64)
                padded[: len(counts)] = counts[:images]
                for index in np.flatnonzero(padded != need.crops)[:1].tolist():
                    found.append(self._crops_of(need, index, int(padded[index]), "image_num_crops"))
            asked = counts[:images].astype(np.int64)
        else:
            asked = need.crops if len(shape) == 4 else None
        if shape and asked is not None and (short := first_short(asked, shape[0])):
            found.append(self._crops_of(need, *short, "pixel_values", int(asked[short[0]])))
        pooling = batch.get("image_token_pooling")
        if pooling is not None and batch.get("image_grids") is not None:
            grids = cpu_array(batch["image_grids"], "image_grids").reshape(-1, 4).astype(np.int64)[:images]
            features = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
            if short := first_short(features, len(pooling)):
                index, kept = short
                asked_rows = int(features[index])
                what = f"has {kept} of {asked_rows} rows of image_token_pooling of image {index}"
                found.append((what, index, kept, asked_rows, "keep all of them"))
        return found

    def _crops_of(
        self, need: ImageNeeds, index: int, kept: int, key: str, asked: int | None = None
    ) -> tuple[str, int, int, int, str]:
        if asked is None:
            assert need.crops is not None
            asked = int(need.crops[index])
        what = f"has {kept} of {asked} crops of image {index} (by {key})"
        fix = "keep all crops"
        if need.sizes and (fitting := self._largest(need.sizes[index : index + 1], kept, "crops")):
            fix += f", or lower max_crops to {fitting} for this row"
        return what, index, kept, asked, fix

    def _misplaced(
        self, placed: Any, image: npt.NDArray[np.bool_], found: Counts, samples: Sequence[Any] | None
    ) -> list[TruncatedRow]:
        """Rows where features of Molmo go to positions without an image token, or fewer features than tokens."""
        import numpy as np

        index = cpu_array(placed, "image_input_idx").reshape(len(image), -1)
        used = index >= 0
        inside = used & (index < image.shape[1])
        hit = inside & np.take_along_axis(image, np.where(inside, index, 0), axis=1)
        asked, kept = np.count_nonzero(used, axis=1), np.count_nonzero(hit, axis=1)
        bad = asked != kept
        if self.counted == "features":
            bad |= asked != found
        rows = []
        for row in np.flatnonzero(bad).tolist():
            tokens = int(found[row] if self.counted == "features" else kept[row])
            what = f"holds {tokens} image tokens for {asked[row]} features (by image_input_idx), {kept[row]} in place"
            fix = f"keep every token and crop: positions up to {index[row].max()} are asked for"
            rows.append(TruncatedRow(row, self._name(samples, row, None), tokens, int(asked[row]), what, fix))
        return rows

    # -- what to say -----------------------------------------------------------------------------------------------

    def _largest(self, sizes: list[tuple[int, int]], budget: int, count: Literal["tokens", "crops"]) -> int | None:
        """The largest max_crops, below the one in use, at which these images fit."""
        start = self.spec.max_crops if self.max_crops is None else self.max_crops
        for value in range(start - 1, 0, -1):  # cost need not grow with the knob: no bisection
            try:
                if count == "tokens":
                    used = int(self._count(sizes, value).sum())
                else:
                    used = int(count_tokens(self.spec, sizes, max_crops=value, count="crops").sum())
            except ValueError:  # a value that the family does not know
                continue
            if used <= budget:
                return value
        return None

    def _fix(self, need: ImageNeeds, mine: Counts, kept: int, asked: int, real: int, full: int, width: int) -> str:
        if kept > asked:
            return "keep all crops and images, or leave out the tokens of those that are dropped"
        limit = min(self.max_sequence_length, width) if width >= real else self.max_sequence_length
        budget = limit - (full - asked)
        sizes = [need.sizes[index] for index in mine.tolist()] if need.sizes else []
        fixes = []
        value = None
        if sizes:
            value = self._largest(sizes, budget, "tokens")
        elif len(mine) and budget > 0:
            try:
                value = largest_max_crops(self._counting, max_tokens=budget // len(mine))
            except (BudgetTooSmallError, UnboundedError, ValueError):
                value = None
        if value is not None:
            fixes.append(f"lower max_crops to {value} for this row")
        fixes.append(f"raise the sequence length from {limit} to {max(full, real + asked - kept)}")
        return ", or ".join(fixes)

    def _report(
        self, real: Counts, predicted: Counts, samples: Sequence[Any] | None, whole: npt.NDArray[np.bool_]
    ) -> None:
        if not len(real):
            return
        fullest = int((real * whole).argmax())
        if self.margin and (spare := self.max_sequence_length - int(real[fullest])) < self.margin and whole[fullest]:
            name = self._name(samples, fullest, None)
            _logger.warning(
                "row %s has %d of %d tokens, %d to spare; %d rows of %d are within %d tokens of the limit",
                f"{fullest} ({name})" if name else fullest,
                real[fullest],
                self.max_sequence_length,
                spare,
                int((real > self.max_sequence_length - self.margin).sum()),
                len(real),
                self.margin,
            )
        if _logger.isEnabledFor(logging.INFO):
            fullest = int(predicted.argmax())
            _logger.info(
                "longest row: %d tokens predicted, %d real, of %d%s",
                predicted[fullest],
                real[fullest],
                self.max_sequence_length,
                memory_report(),
            )

    def _refuse(self, rows: tuple[TruncatedRow, ...]) -> None:
        lines = [str(row) for row in rows[:_NAMED_ROWS]]
        if len(rows) > _NAMED_ROWS:
            lines.append(f"and {len(rows) - _NAMED_ROWS} rows more")
        error = TruncatedImageError("[guard] " + "\n".join(lines), rows=rows)
        if self.on_truncation == "raise":
            raise error
        _logger.warning("%s", error)


def guard(collate: Callable[[Any], Any], spec: Spec, **settings: Any) -> Guard:
    """A collate function that refuses a batch with truncated images; settings are those of :class:`Guard`."""
    if not callable(collate):
        raise TypeError(f"[guard] collate must be a function of a list of samples, got {collate!r}")
    return Guard(spec, collate=collate, **settings)


def memory_report() -> str:
    """ "; GPU memory ..." of the current device where this process uses CUDA, or nothing.

    The allocator's own counters: reading them waits for nothing, and CUDA is not started for it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    allocated, reserved = torch.cuda.memory_allocated() / 2**30, torch.cuda.memory_reserved() / 2**30
    return f"; GPU memory {allocated:.2f} GiB allocated, {reserved:.2f} GiB reserved"
