"""The plan: the verdict on max_crops under given limits, with the limit that binds and the margin left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from maxcrops._arguments import require_arguments, require_threads
from maxcrops._bounds import Bound, bounds, is_bounded, size_limit
from maxcrops._counting import CountName, _as_sizes
from maxcrops.planning.images import ImageSummary, knee, summarise
from maxcrops.planning.limits import (
    VERDICTS,
    ComputeLimit,
    LatencyLimit,
    LaunchLimit,
    Limit,
    MemoryLimit,
    SequenceLimit,
    Use,
    Verdict,
)
from maxcrops.specs import Spec

if TYPE_CHECKING:
    import numpy.typing as npt

    from maxcrops.planning.devices import Device
    from maxcrops.planning.dryrun import DryRun, DryRuns, LargestBatch

DEFAULT_MAX_SEQUENCE_LENGTH = 4096
"""Tokens; what Molmo's configuration says."""

_ROWS_BEYOND = 4
"""Rows after the last value that fits and the spec's own."""

_MOST_ROWS = 4096
"""Up to here, a row for every value; beyond, _SPACED_ROWS."""

_SPACED_ROWS = 512

_RUN_ROWS = 16
"""Values that a plan with a model tabulates: each is a dry run."""

_TRIED_ROWS = 8
"""Values that a plan with a limit on sizes tabulates: each may have to try every size."""


@dataclass(frozen=True)
class PlanRow:
    """One value of max_crops, in its worst case over all image sizes."""

    max_crops: int
    tokens: int
    """Exact worst case of one image, sequence tokens."""
    grid: tuple[int, int]
    """(rows, cols) of the image that costs it."""
    witness: tuple[int, int]
    """(height, width) of that image, pixels."""
    left_for_text: int
    """Of the sequence, after the images; negative where they alone exceed it."""
    uses: tuple[Use, ...]
    """How it stands against each limit."""
    attention: float
    """Attention cost of the language model's prefill relative to the spec's own setting: the squared ratio of the
    sequence lengths, text included."""
    num_crops: int
    """Worst case, the global crop included."""
    connector_outputs: int
    """Worst case."""
    vit_patches: int | None
    """Worst case; None where it grows with the image's ratio, and the tokens do not."""
    images: ImageSummary | None = None
    """The given images."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the limits' verdicts."""
        return max((use.verdict for use in self.uses), key=VERDICTS.index)

    @property
    def fits(self) -> bool:
        """Whether every image fits every limit."""
        return self.verdict != "over"

    @property
    def binding(self) -> Use:
        """The limit with the least to spare, relative to what is available."""
        return min(self.uses, key=lambda use: use.spare / max(use.available, 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "max_crops": self.max_crops,
            "tokens": self.tokens,
            "grid": list(self.grid),
            "witness": list(self.witness),
            "left_for_text": self.left_for_text,
            "verdict": self.verdict,
            "attention": self.attention,
            "num_crops": self.num_crops,
            "connector_outputs": self.connector_outputs,
            "vit_patches": self.vit_patches,
            "limits": [
                {
                    "limit": use.limit,
                    "used": use.used,
                    "available": use.available,
                    "spare": use.spare,
                    "unit": use.unit,
                    "verdict": use.verdict,
                    "evidence": use.evidence,
                }
                for use in self.uses
            ],
            "images": self.images.to_dict() if self.images else None,
        }


@dataclass(frozen=True, repr=False)
class Plan:
    """The verdict on max_crops for one model under given limits."""

    spec: Spec
    max_sequence_length: int
    sequence_length_source: str
    """Where it comes from: the caller, the model's configuration, or the default."""
    text_tokens: int
    images_per_sample: int
    tight_margin: int
    """Tokens; less to spare than this is tight."""
    max_crops: int
    """The value asked for, or the spec's own."""
    row: PlanRow
    """The row of that value."""
    largest_max_crops: int | None
    """The largest value at which every image fits every limit; None where none does."""
    binding: Use
    """The limit that binds: at the largest value that fits (or at the smallest, where none does)."""
    rows: tuple[PlanRow, ...]
    """Every value from the smallest to a few beyond the answer."""
    knee: int | None
    """The smallest value that keeps 99% of the detail of the given images that the values which fit can keep: from
    there on, more crops stop paying."""
    num_images: int
    """Images given."""
    batch_size: int = 1
    """Samples of a dry run."""
    runs: Mapping[int, DryRun] = field(default_factory=dict)
    """The dry run of each value, where a model was given."""
    frontier: Mapping[int, LargestBatch] = field(default_factory=dict)
    """The largest batch that fits the GPU at each value, where a model was given."""
    max_batch_size: int = 0
    """Where the frontier ends: a batch of so many may not be the largest."""
    max_side: int | None = None
    """The worst cases hold for images up to this side, pixels; for all where None."""
    max_ratio: float | None = None
    """The same for the ratio of the long side to the short one."""

    @property
    def fits(self) -> bool:
        """Whether every image fits at the value asked for."""
        return self.row.fits

    @property
    def knob_value(self) -> object:
        """What to set the model's own knob to for the answer, in the model's own unit."""
        return None if self.largest_max_crops is None else self.spec.knob_at(self.largest_max_crops)

    @property
    def knob_ends(self) -> bool:
        """Whether the answer is the last value that the model's knob has, instead of one that a limit sets."""
        return self.largest_max_crops == self.spec.max_crops_range[1]

    @property
    def next_row(self) -> PlanRow | None:
        """The first row that does not fit, after the answer."""
        return next((row for row in self.rows if not row.fits), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "model": self.spec.to_dict(),
            "max_sequence_length": self.max_sequence_length,
            "sequence_length_source": self.sequence_length_source,
            "text_tokens": self.text_tokens,
            "images_per_sample": self.images_per_sample,
            "tight_margin": self.tight_margin,
            "max_crops": self.max_crops,
            "verdict": self.row.verdict,
            "fits": self.fits,
            "largest_max_crops": self.largest_max_crops,
            "knob": {"name": self.spec.knob, "value": self.knob_value},
            "binding": {"limit": self.binding.limit, "spare": self.binding.spare, "unit": self.binding.unit},
            "knee": self.knee,
            "num_images": self.num_images,
            "max_side": self.max_side,
            "max_ratio": self.max_ratio,
            "batch_size": self.batch_size,
            "runs": [{"max_crops": value, **run.to_dict()} for value, run in sorted(self.runs.items())],
            "max_batch_size": self.max_batch_size,
            "frontier": [{"max_crops": value, **batch.to_dict()} for value, batch in sorted(self.frontier.items())],
            "rows": [row.to_dict() for row in self.rows],
        }

    def __repr__(self) -> str:
        doubt = f"; unverified {', '.join(self.spec.unverified)}" if self.spec.unverified else ""
        return (
            f"Plan({self.spec.key!r}: largest safe max_crops {self.largest_max_crops}, bound by {self.binding.limit}"
            f" with {self.binding.spare} {self.binding.unit} to spare;"
            f" max_crops {self.max_crops} is {self.row.verdict}{doubt})"
        )


def plan(
    spec: Spec,
    *,
    max_sequence_length: int | None = None,
    text_tokens: int = 512,
    max_crops: int | None = None,
    images_per_sample: int = 1,
    tight_margin: int = 100,
    max_side: int | None = None,
    max_ratio: float | None = None,
    sizes: npt.ArrayLike | None = None,
    max_crops_list: Sequence[int] | None = None,
    num_threads: int = 1,
    model: Any = None,
    device_memory: Device | str | int = "h100",
    batch_size: int = 1,
    mode: Literal["prefill", "generate", "train"] = "prefill",
    max_latency_ms: float | None = None,
    max_flops: float | None = None,
    run_settings: Mapping[str, Any] | None = None,
    max_batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """How many crops are safe, and why.

    A value is *over* when some image does not fit beside the text, *tight* when every image fits with fewer than
    ``tight_margin`` tokens to spare, *safe* otherwise. The answer is the largest value at which every image fits.

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        max_sequence_length: tokens; the model's own configuration where None, or 4096 where that is not known.
        text_tokens: tokens reserved for prompt, chat template and answer.
        max_crops: the value to judge; the spec's own where None.
        images_per_sample: images that share one sequence.
        tight_margin: tokens.
        max_side: longest side of the images that the worst cases are to hold for, pixels: models whose cost grows with
            the image's ratio need it.
        max_ratio: largest ratio of the long side to the short one, with max_side.
        sizes: integers [N, 2], (height, width) of images to summarise at every value.
        max_crops_list: the values to tabulate; from the smallest to a few beyond the answer where None.
        num_threads: for the summaries, and for the sizes within max_side.
        model: the model's configuration (a folder with config.json, a dict, a transformers object, or the name of one
            that is shipped): it is run at each value on weights without memory (``dry_run``), and the GPU's memory and
            CUDA's limits on launches join the sequence. It needs torch and transformers, and some seconds a run.
        device_memory: the GPU, by name ("a100-80gb") or by memory ("24GB", bytes).
        batch_size: samples of a run.
        mode: "prefill", "generate" or "train".
        max_latency_ms: a budget of time for a run, against a roofline estimate.
        max_flops: a budget of arithmetic for a run.
        run_settings: the other settings of ``dry_run``: dtype, gradient_checkpointing, trainable...
        max_batch_size: samples up to which the largest batch of each value is looked for; 0: it is not.
        on_progress: called with the number of steps of dry runs done and the number to do.

    Returns:
        A Plan.

    Raises:
        TypeError, ValueError: an argument that is no integer, or out of range.
        UnboundedError: the model's cost grows with the image's ratio; give max_side.
        UnsupportedError, ConfigError, DryRunError: as ``dry_run``.

    >>> from maxcrops import get_spec
    >>> plan(get_spec("molmo-7b-d"), max_sequence_length=4096, text_tokens=512)
    Plan('molmo-7b-d': largest safe max_crops 32, bound by sequence with 44 tokens to spare; max_crops 12 is safe)
    """
    require_arguments("plan", spec, max_crops=max_crops)
    require_threads("plan", num_threads)
    source = "given"
    if max_sequence_length is None:
        max_sequence_length = spec.max_sequence_length or DEFAULT_MAX_SEQUENCE_LENGTH
        source = "model configuration" if spec.max_sequence_length else "default"
    max_sequence_length = _integer("max_sequence_length", max_sequence_length, 1)
    text_tokens = _integer("text_tokens", text_tokens, 0)
    images_per_sample = _integer("images_per_sample", images_per_sample, 1)
    tight_margin = _integer("tight_margin", tight_margin, 0)
    max_batch_size = _integer("max_batch_size", max_batch_size, 0)
    array = None if sizes is None else _as_sizes("plan", sizes)

    within = size_limit("plan", max_side, max_ratio, num_threads)
    sequence = SequenceLimit(max_sequence_length, text_tokens, images_per_sample, tight_margin, within)
    limits: list[Limit] = [sequence]
    asked = spec.max_crops if max_crops is None else int(max_crops)

    has_patches = within is not None or is_bounded(spec, "vit_patches")
    tabulated: tuple[CountName, ...] = ("sequence_tokens", "crops", "connector_outputs")
    tabulated += ("vit_patches",) if has_patches else ()

    @cache
    def worst(value: int | None) -> dict[CountName, Bound]:
        return bounds("plan", spec, value, tabulated, within)

    default_tokens = worst(None)["sequence_tokens"].tokens * images_per_sample + text_tokens

    def make_row(value: int) -> PlanRow:
        found = worst(value)
        bound = found["sequence_tokens"]
        tokens = bound.tokens * images_per_sample
        images = None
        if array is not None and len(array):
            per_image = (max_sequence_length - text_tokens) // images_per_sample
            images = summarise(spec, array, max_crops=value, max_tokens=per_image, num_threads=num_threads)
        return PlanRow(
            max_crops=value,
            tokens=bound.tokens,
            grid=bound.grid,
            witness=bound.witness,
            left_for_text=max_sequence_length - tokens,
            uses=(sequence.use_of(bound.tokens), *(limit.use(spec, value) for limit in limits[1:])),
            attention=((tokens + text_tokens) / default_tokens) ** 2,
            num_crops=found["crops"].tokens,
            connector_outputs=found["connector_outputs"].tokens,
            vit_patches=found["vit_patches"].tokens if has_patches else None,
            images=images,
        )

    if max_crops_list is None:
        most_rows = _TRIED_ROWS if within else _MOST_ROWS if model is None else _RUN_ROWS
        values = _tabulated(spec, sequence.largest(spec), asked, most_rows)
    else:
        values = [_integer("max_crops_list", value, 1) for value in max_crops_list]
        if not values:
            raise ValueError("[plan] max_crops_list must name at least one value; None tabulates them all")
    runs: dict[int, DryRun] = {}
    frontier: dict[int, LargestBatch] = {}
    if model is not None:
        from maxcrops.planning.dryrun import DryRuns

        settings = {"mode": mode, "text_tokens": text_tokens, "images_per_sample": images_per_sample}
        limits += _run_limits(runs, max_latency_ms, max_flops)
        with DryRuns(model, spec, device=device_memory, **{**settings, **(run_settings or {})}) as dry_runs:
            look = partial(dry_runs.frontier, most=max_batch_size, on_progress=on_progress)
            if max_batch_size:  # first, as its runs tell most of the others
                look({*values, asked})
            _fill_runs(runs, limits, dry_runs, {*values, asked}, batch_size, on_progress)
            frontier = look(runs) if max_batch_size else {}
        values = sorted({*values, *runs}) if max_crops_list is None else values
    asked_row = make_row(asked)
    largest_by_limit = [limit.largest(spec) for limit in limits]
    largest = None if None in largest_by_limit else min(value for value in largest_by_limit if value is not None)
    if runs and largest is not None:  # only values that were run can be the answer
        largest = max((value for value in runs if value <= largest), default=None)
    judged = largest or (min(runs) if runs else spec.max_crops_range[0])
    rows = tuple(make_row(value) for value in values)
    fitting = [row for row in rows if row.fits]
    summaries = [row.images for row in fitting if row.images is not None]
    return Plan(
        spec=spec,
        max_sequence_length=max_sequence_length,
        sequence_length_source=source,
        text_tokens=text_tokens,
        images_per_sample=images_per_sample,
        tight_margin=tight_margin,
        max_crops=asked,
        row=asked_row,
        largest_max_crops=largest,
        binding=min(
            (limit.use(spec, judged) for limit in limits),
            key=lambda use: use.spare / max(use.available, 1),
        ),
        rows=rows,
        knee=knee([row.max_crops for row in fitting], summaries),
        num_images=0 if array is None else len(array),
        batch_size=batch_size,
        runs=runs,
        frontier=frontier,
        max_batch_size=max_batch_size,
        max_side=max_side,
        max_ratio=max_ratio,
    )


def _run_limits(runs: Mapping[int, DryRun], max_latency_ms: float | None, max_flops: float | None) -> list[Limit]:
    limits: list[Limit] = [MemoryLimit(runs), LaunchLimit(runs)]
    if max_latency_ms is not None:
        limits.append(LatencyLimit(runs, _budget("max_latency_ms", max_latency_ms)))
    if max_flops is not None:
        limits.append(ComputeLimit(runs, _budget("max_flops", max_flops)))
    return limits


def _fill_runs(
    runs: dict[int, DryRun],
    limits: Sequence[Limit],
    dry_runs: DryRuns,
    values: Iterable[int],
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Runs the values, and those between the last that fits and the first that does not, by halves."""

    def run(wanted: Iterable[int]) -> None:
        table = dry_runs.table(wanted, [batch_size], on_progress=on_progress)
        runs.update({value: result for (value, _), result in table.items()})

    run(sorted(values))
    while True:
        over = {value for value in runs if any(limit.use(dry_runs.spec, value).verdict == "over" for limit in limits)}
        first_over = min(over, default=None)
        last_below = max((value for value in runs if first_over is None or value < first_over), default=None)
        if first_over is None or last_below is None or first_over - last_below < 2:
            return
        run([(first_over + last_below) // 2])


def _budget(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"[plan] {name} must be a number above 0, got {value!r}")
    return value


def _tabulated(spec: Spec, largest: int | None, asked: int, most: int) -> list[int]:
    """Every value to a few beyond the answer; where those are too many, spaced by ratio. The asked one always."""
    first, last = spec.max_crops_range
    end = min(last, max(spec.max_crops, largest or first) + _ROWS_BEYOND)
    if end - first < most:
        values = set(range(first, end + 1))
    else:
        count = min(most, _SPACED_ROWS)
        ratio = (end / first) ** (1 / (count - 1))
        spaced = {int(first * ratio**i) for i in range(count)}
        answer = largest or first
        values = spaced | {answer, min(answer + 1, end), end}
    return sorted(values | {asked})


def _integer(name: str, value: object, least: int) -> int:
    """A plain int, also of a NumPy integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"[plan] {name} must be an integer, got {value!r}")
    plain = int(value.__index__())
    if not least <= plain < 2**53:
        raise ValueError(f"[plan] {name} must be in {least}..{2**53 - 1}, got {value}")
    return plain
