"""How sure an accuracy is, and where it stops to grow: the bootstrap over questions.

Every resample draws as many questions as there are, with replacement, and all points are scored on the same draw. So a
difference between two points is paired: what makes a question hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the percentile limits of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Knee:
    """The smallest max_crops from which no larger one of the sweep gains more than the tolerance."""

    max_crops: int
    confidence: float
    """Share of the resamples that have their knee here."""
    shares: Mapping[int, float]
    """max_crops -> share of the resamples that have their knee there, where any has."""
    reached: bool
    """Whether a larger value was measured; if not, accuracy may still grow beyond the sweep."""
    tolerance: float
    """Accuracy, of 1, that a larger value must gain to be worth it."""


def resample(scores: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Floats:
    """Mean scores of every point in each resample of the questions.

    Args:
        scores: float [points, questions].
        resamples: how many.
        seed: of NumPy's generator; the same one draws the same questions.

    Returns:
        float64 [resamples, points].

    Raises:
        ValueError: no question, or no points axis.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"[resample] scores must be [points, questions] with a question, got shape {array.shape}")
    questions = array.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(array)))
    for at in range(resamples):  # one draw at a time: a hundred thousand questions take a megabyte
        drawn = np.bincount(generator.integers(questions, size=questions), minlength=questions)
        means[at] = array @ drawn / questions
    return means


def interval(value: float, samples: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Percentile limits, between which `level` of the samples lie.

    >>> interval(0.5, [0.0, 0.25, 0.5, 0.75, 1.0], level=0.5)
    Interval(value=0.5, low=0.25, high=0.75)
    """
    low, high = np.quantile(np.asarray(samples, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def find_knee(values: Sequence[int], means: npt.ArrayLike, samples: npt.ArrayLike, *, tolerance: float = 0.01) -> Knee:
    """The knee of accuracy over max_crops, and how often resamples agree.

    Args:
        values: max_crops of the points, ascending.
        means: float [points], accuracy of each.
        samples: float [resamples, points], from ``resample``.
        tolerance: accuracy, of 1, that a larger value must gain to be worth it.

    Raises:
        ValueError: no value, or values that do not ascend.
    """
    if not values or any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"[find_knee] values must ascend and be at least one, got {list(values)}")
    at = int(_knees(np.asarray(means, dtype=np.float64)[None], tolerance)[0])
    counts = np.bincount(_knees(np.asarray(samples, dtype=np.float64), tolerance), minlength=len(values))
    shares = {value: float(count / counts.sum()) for value, count in zip(values, counts, strict=True) if count}
    return Knee(
        max_crops=values[at],
        confidence=shares.get(values[at], 0.0),
        shares=shares,
        reached=at < len(values) - 1,
        tolerance=tolerance,
    )


def _knees(means: Floats, tolerance: float) -> npt.NDArray[np.intp]:
    """The first point of each row that the best of those after it does not beat by more than the tolerance."""
    best_from_here = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
    # Sums of tenths in another order differ in the last bits; no accuracy is known to a millionth.
    knees: npt.NDArray[np.intp] = np.argmax(best_from_here - means <= tolerance + 1e-9, axis=1)
    return knees
