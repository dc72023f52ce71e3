"""The bootstrap and the knee: against known distributions, brute force and made-up curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxcrops.profiling.statistics import find_knee, interval, resample


def test_limits_of_a_proportion() -> None:
    """400 questions, half of them right: a binomial's standard deviation is sqrt(.25 / 400) = 0.025."""
    scores = np.array([np.arange(400) % 2])
    means = resample(scores, resamples=4000)
    assert means.shape == (4000, 1)
    assert means.std() == pytest.approx(0.025, rel=0.05)
    limits = interval(0.5, means[:, 0])
    assert (limits.low, limits.high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.003)


def test_points_are_paired() -> None:
    """A point that is right on the same questions and on ten more differs by those ten alone."""
    rng = np.random.default_rng(3)
    first = (rng.random(500) < 0.5).astype(float)
    second = first.copy()
    second[np.flatnonzero(first == 0)[:10]] = 1
    means = resample([first, second])
    gains = means[:, 1] - means[:, 0]
    # Ten of 500, drawn with replacement: sqrt(0.02 * 0.98 / 500); unpaired it would be five times that.
    assert gains.std() == pytest.approx(np.sqrt(0.02 * 0.98 / 500), rel=0.1)
    assert np.all(gains >= 0)
    assert np.array_equal(resample([first, first])[:, 0], resample([first, first])[:, 1])


def test_a_seed_is_a_draw() -> None:
    scores = np.random.default_rng(0).random((3, 40))
    assert np.array_equal(resample(scores, seed=5), resample(scores, seed=5))
    assert not np.array_equal(resample(scores, seed=5), resample(scores, seed=6))
    # The draw does not depend on the other points.
    assert np.allclose(resample(scores, seed=5)[:, :2], resample(scores[:2], seed=5))


@pytest.mark.parametrize("scores", [[], [[]], [0.5, 0.5], np.empty((2, 0))])
def test_nothing_to_resample(scores: object) -> None:
    with pytest.raises(ValueError, match=r"\[resample\] scores must be \[points, questions\] with a question"):
        resample(scores)  # type: ignore[arg-type]


def slow_knee(values: list[int], means: list[float], tolerance: float) -> int:
    for at, value in enumerate(values):
        if all(later - means[at] <= tolerance + 1e-9 for later in means[at:]):
            return value
    raise AssertionError("the last point always is one")


@given(
    st.lists(st.integers(0, 20).map(lambda hits: hits / 20), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.01, 0.05, 0.3]),
)
def test_the_knee_is_the_first_that_none_later_beats(means: list[float], tolerance: float) -> None:
    values = [2 * at + 1 for at in range(len(means))]
    knee = find_knee(values, means, [means, means], tolerance=tolerance)
    assert knee.max_crops == slow_knee(values, means, tolerance)
    assert knee.confidence == 1
    assert knee.reached == (knee.max_crops < values[-1])


@pytest.mark.parametrize(
    ("means", "knee"),
    [
        ([0.5, 0.6, 0.7, 0.7, 0.7], 4),  # a plateau
        ([0.5, 0.6, 0.7, 0.705, 0.709], 4),  # what it gains after is below the tolerance
        ([0.5, 0.6, 0.7, 0.705, 0.711], 6),  # it is not, taken together
        ([0.5, 0.7, 0.6, 0.6, 0.6], 3),  # it falls: the best lies before
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2),  # nothing is gained
        ([0.1, 0.2, 0.3, 0.4, 0.5], 8),  # it still grows
        ([0.7, 0.6, 0.7, 0.7, 0.7], 2),  # a dip
    ],
)
def test_knees(means: list[float], knee: int) -> None:
    found = find_knee([2, 3, 4, 6, 8], means, [means])
    assert (found.max_crops, found.reached) == (knee, knee != 8)


def test_how_sure_a_knee_is() -> None:
    """Where the last step is one question of a hundred, a third of the draws leave it out: (1 - 1/100)^100 = 0.37."""
    scores = np.zeros((3, 100))
    scores[:, :50] = 1
    scores[1:, 50] = 1
    knee = find_knee([4, 8, 12], scores.mean(axis=1), resample(scores), tolerance=0.0)
    assert knee.max_crops == 8
    assert knee.confidence == pytest.approx(1 - 0.99**100, abs=0.03)
    assert knee.shares == {4: pytest.approx(0.99**100, abs=0.03), 8: knee.confidence}


@pytest.mark.parametrize("values", [[], [2, 2], [3, 2]])
def test_values_ascend(values: list[int]) -> None:
    with pytest.raises(ValueError, match="values must ascend"):
        find_knee(values, [0.0] * len(values), [[0.0] * len(values)])
