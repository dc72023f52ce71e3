"""The largest batch that works, in a few real trials: pure arithmetic, which knows neither models nor devices.

Memory is taken to grow by a line, ``fixed + per_sample * batch_size``, whose first term a trial knows once the weights
are loaded and whose second is fitted to the trials that worked. A trial that worked tells much and one that ran out of
memory little, so the first lies where it works even if the prediction is too high by ``PREDICTION_ERROR``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Label: TypeAlias = Literal["ok", "out_of_memory", "launch_failure", "timeout", "crashed", "error"]
LABELS: tuple[Label, ...] = ("ok", "out_of_memory", "launch_failure", "timeout", "crashed", "error")

PREDICTION_ERROR = 0.3
"""By which a prediction may be too high for the first trial to work; beyond, a trial is lost."""

TOLERANCE = 0.03
"""Part of the largest batch that is not looked for further."""

# Of the batch that the line says, the one that is tried. A single point says the slope to the noise of memory that is
# rounded to segments; a second, near the limit, says it well.
_FIRST_MARGIN, _NEXT_MARGIN = 0.985, 0.995
_STEP_BELOW = 0.024  # of a batch that failed; less than TOLERANCE, so that what works there is good enough


@dataclass(frozen=True)
class Trial:
    """One batch that was run. Bytes."""

    batch_size: int
    label: Label
    used_bytes: int | None = None
    """Most that was in use at once; None where it is not known, as of a run that failed."""
    fixed_bytes: int | None = None
    """What does not grow with the batch."""
    capacity_bytes: int | None = None
    """What ``used_bytes`` may grow to."""


@dataclass(frozen=True)
class BatchSearch:
    """The largest batch that worked."""

    batch_size: int
    """One that was run and worked; 0 where none did."""
    binding: Label | None
    """What the smallest batch that failed failed of; "launch_failure" also where a known limit stopped the search; None
    where nothing failed."""
    smallest_failed: int | None
    """The smallest batch that failed; None where none did."""
    trials: tuple[Trial, ...]
    """In the order that they were run in."""
    exact: bool
    """Whether one sample more is known to fail, or is more than was asked for."""
    advice: str
    """What to do for a larger batch, in words."""


def search_batch(
    run: Callable[[int], Trial],
    *,
    predicted: int,
    most: int = 1024,
    launch_limit: int | None = None,
    max_trials: int = 5,
) -> BatchSearch:
    """Looks for the largest batch that works.

    Out of memory, time or a crash: a smaller batch, where the line of the trials that worked meets the capacity; half
    as many where none worked yet. A launch that was refused: the limit is one of the grid's size, which is exact, so
    memory's line says nothing, and batches between what worked and what was refused are halved; where `launch_limit`
    is known, nothing beyond it is tried. An error of another kind ends the search: no batch would mend it.

    Args:
        run: runs a batch of so many samples.
        predicted: the largest batch that is expected to work, of a dry run for one.
        most: samples; nothing beyond is tried.
        launch_limit: the largest batch whose every launch passes, where it is known; 0: not even one sample's.
        max_trials: how often `run` may be called.

    Returns:
        A batch that was run and worked, or 0.

    Raises:
        ValueError: predicted, most or max_trials below 1.
    """
    for name, value in (("predicted", predicted), ("most", most), ("max_trials", max_trials)):
        if value < 1:
            raise ValueError(f"[search_batch] {name} must be at least 1, got {value}")
    stop = min(most, launch_limit) if launch_limit is not None else most
    trials: list[Trial] = []
    best, failed = 0, stop + 1
    candidate = max(1, min(stop, round(predicted / (1 + PREDICTION_ERROR))))
    while len(trials) < max_trials and best < candidate < failed:
        trial = run(candidate)
        trials.append(trial)
        if trial.label == "ok":
            best = candidate
        else:
            failed = candidate
        if trial.label == "error":
            break
        candidate = _next(trials, best, failed, failed == stop + 1)
    return _result(trials, best, failed, stop, launch_limit)


def _next(trials: Sequence[Trial], best: int, failed: int, none_failed: bool) -> int:
    """The batch to try, strictly between `best` and `failed`; `best` itself where it is good enough."""
    last, middle = trials[-1], (best + failed) // 2
    if failed - best <= 1:
        return best
    if last.label == "launch_failure":
        return middle
    if not none_failed and _label_of(trials, failed) == "launch_failure":
        return middle  # an exact limit lies between, and is worth its trials
    largest = _fitted(trials)
    if largest is None:
        return min(2 * best, failed - 1) if none_failed else middle
    if best >= (1 - TOLERANCE) * (best + 1) and best >= (1 - TOLERANCE) * min(largest, failed - 1) and len(trials) > 1:
        return best
    worked = sum(trial.label == "ok" for trial in trials)
    wanted = int(largest * (_FIRST_MARGIN if worked == 1 else _NEXT_MARGIN))
    if none_failed:
        return min(max(wanted, best + 1), failed - 1)
    # The line promised more than there was: it is believed no further than a step below what failed.
    wanted = min(wanted, int(failed * (1 - _STEP_BELOW)), failed - 1)
    return wanted if wanted > best else middle


def _fitted(trials: Sequence[Trial]) -> float | None:
    """The batch at which a line through the trials that worked meets the capacity; None if there is no such line.

    Least squares over (0, fixed) and (batch, used).
    """
    points: list[tuple[int, int]] = []
    capacity = None
    for trial in trials:
        if trial.capacity_bytes is not None:
            capacity = trial.capacity_bytes
        if trial.label == "ok" and trial.used_bytes is not None:
            points.append((trial.batch_size, trial.used_bytes))
            if trial.fixed_bytes is not None:
                points.append((0, trial.fixed_bytes))
    if capacity is None or len({batch for batch, _ in points}) < 2:
        return None
    mean_batch = sum(batch for batch, _ in points) / len(points)
    mean_used = sum(used for _, used in points) / len(points)
    spread = sum((batch - mean_batch) ** 2 for batch, _ in points)
    slope = sum((batch - mean_batch) * (used - mean_used) for batch, used in points) / spread
    if slope <= 0:
        return None
    return max(0.0, (capacity - mean_used) / slope + mean_batch)


def _label_of(trials: Sequence[Trial], batch_size: int) -> Label | None:
    return next((trial.label for trial in trials if trial.batch_size == batch_size), None)


def _result(trials: Sequence[Trial], best: int, failed: int, stop: int, launch_limit: int | None) -> BatchSearch:
    binding = _label_of(trials, failed)
    if binding is None and best == stop and stop == launch_limit:
        binding = "launch_failure"
    return BatchSearch(
        batch_size=best,
        binding=binding,
        smallest_failed=failed if _label_of(trials, failed) is not None else None,
        trials=tuple(trials),
        exact=failed == best + 1,
        advice=_advice(best, binding),
    )


def _advice(best: int, binding: Label | None) -> str:
    if binding is None:
        return ""
    if binding == "error":
        return "mend the error: it is no matter of the batch"
    if binding == "launch_failure":
        if best == 0:
            return "not even one sample's launches pass: lower max_crops, or split the refused call"
        return f"run batches of {best}, or split the refused call: more memory does not help"
    if best == 0:
        return "not even one sample fits: lower max_crops, or use a smaller dtype or more memory"
    return f"run batches of {best}; for more, lower max_crops, or use gradient checkpointing in training"
