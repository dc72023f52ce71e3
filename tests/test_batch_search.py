"""The search for the largest batch, on simulated devices whose true limit is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from maxcrops.profiling.batch_search import TOLERANCE, BatchSearch, Trial, search_batch

GIB, MIB = 2**30, 2**20
CASES = 1000


@dataclass(frozen=True)
class Simulated:
    """A device and a model: memory by a line, with what the line does not know."""

    largest: int
    """The truth."""
    predicted: int
    launch_limit: int | None
    run: Callable[[int], Trial]


def simulate(seed: int) -> Simulated:
    """Linear memory with steps and noise, a part that no reading shows, an intercept that is not all of the fixed part,
    and in a quarter of the cases a launch limit, which a dry run knows exactly."""
    rng = random.Random(seed)
    capacity = rng.choice([16, 24, 40, 80]) * GIB
    fixed = int(capacity * rng.uniform(0.05, 0.7))
    scale = int(2 ** rng.uniform(1, 9))
    per_sample = (capacity - fixed) / (scale + rng.random())
    step = max(2 * MIB, int(per_sample * rng.choice([0, 0.02, 0.5, 1, 2])))  # memory is taken in whole segments
    noise = rng.choice([0, 0.003, 0.01])
    workspace = int((capacity - fixed) * rng.choice([0, 0.005, 0.02]))  # fixed, and not known as such
    hidden = rng.choice([0, 0.01, 0.03])  # lost to fragmentation: needed and not in use

    def used(batch: int) -> int:
        return fixed + workspace + -(-int(per_sample * batch) // step) * step

    def needed(batch: int) -> float:
        return fixed + (used(batch) - fixed) * (1 + hidden)

    largest = 0
    while needed(largest + 1) <= capacity:
        largest += 1
    limit = max(1, int(largest * rng.uniform(0.3, 1.2))) if rng.random() < 0.25 else None

    def run(batch: int) -> Trial:
        if limit is not None and batch > limit:
            return Trial(batch, "launch_failure", fixed_bytes=fixed, capacity_bytes=capacity)
        if needed(batch) > capacity:
            return Trial(batch, "out_of_memory", fixed_bytes=fixed, capacity_bytes=capacity)
        read = fixed + (used(batch) - fixed) * (1 + rng.uniform(-noise, noise))
        return Trial(batch, "ok", min(int(read), capacity), fixed, capacity)

    largest = largest if limit is None else min(largest, limit)
    return Simulated(largest, max(1, round(largest * rng.uniform(0.7, 1.3))), limit, run)


SIMULATED = [case for case in map(simulate, range(CASES)) if case.largest > 0]


def assert_consistent(result: BatchSearch) -> None:
    worked = {trial.batch_size for trial in result.trials if trial.label == "ok"}
    failed = {trial.batch_size for trial in result.trials if trial.label != "ok"}
    assert result.batch_size == max(worked, default=0)
    assert result.smallest_failed == min(failed, default=None)
    assert not failed or max(worked, default=0) < min(failed)
    assert len({trial.batch_size for trial in result.trials}) == len(result.trials)  # nothing is run twice


def test_three_trials_are_enough() -> None:
    assert len(SIMULATED) >= 200
    close = 0
    for case in SIMULATED:
        result = search_batch(case.run, predicted=case.predicted, launch_limit=case.launch_limit, max_trials=3)
        assert_consistent(result)
        assert len(result.trials) <= 3
        close += result.batch_size >= (1 - TOLERANCE) * case.largest
    assert close / len(SIMULATED) >= 0.95, close / len(SIMULATED)


def test_more_trials_find_more() -> None:
    for case in SIMULATED:
        result = search_batch(case.run, predicted=case.predicted, launch_limit=case.launch_limit, max_trials=6)
        assert_consistent(result)
        assert result.batch_size >= 0.9 * case.largest


@pytest.mark.parametrize("times", [0.02, 0.2, 3, 20])
def test_a_prediction_may_be_far_off(times: float) -> None:
    for case in SIMULATED[:200]:
        predicted = max(1, round(case.largest * times))
        result = search_batch(case.run, predicted=predicted, launch_limit=case.launch_limit, max_trials=12)
        assert_consistent(result)
        assert result.batch_size >= 0.9 * case.largest


def test_a_launch_limit_that_nobody_knows_is_found_exactly() -> None:
    for limit in (1, 2, 35, 56, 100):
        capacity = 80 * GIB

        def run(batch: int, limit: int = limit, capacity: int = capacity) -> Trial:
            if batch > limit:
                return Trial(batch, "launch_failure", None, 16 * GIB, capacity)
            return Trial(batch, "ok", (16 + batch // 4) * GIB, 16 * GIB, capacity)

        result = search_batch(run, predicted=70, max_trials=12)
        assert (result.batch_size, result.binding, result.exact) == (limit, "launch_failure", True)
        assert "more memory does not help" in result.advice


def test_a_known_launch_limit_is_not_tried_beyond() -> None:
    def run(batch: int) -> Trial:
        assert batch <= 35
        return Trial(batch, "ok", batch * GIB, 0, 80 * GIB)

    result = search_batch(run, predicted=64, launch_limit=35)
    assert (result.batch_size, result.binding, result.exact, len(result.trials)) == (35, "launch_failure", True, 1)


def test_no_launch_passes() -> None:
    def run(batch: int) -> Trial:
        raise AssertionError

    result = search_batch(run, predicted=4, launch_limit=0)
    assert (result.batch_size, result.binding, result.trials) == (0, "launch_failure", ())
    assert "split" in result.advice


@pytest.mark.parametrize("label", ["out_of_memory", "crashed", "timeout", "launch_failure"])
def test_not_even_one_sample(label: str) -> None:
    result = search_batch(lambda batch: Trial(batch, label), predicted=16, max_trials=10)  # type: ignore[arg-type]
    assert_consistent(result)
    assert (result.batch_size, result.binding, result.exact, result.smallest_failed) == (0, label, True, 1)


def test_an_error_is_no_matter_of_the_batch() -> None:
    result = search_batch(lambda batch: Trial(batch, "error"), predicted=16)
    assert (result.batch_size, result.binding, len(result.trials)) == (0, "error", 1)


def test_without_readings_it_halves() -> None:
    result = search_batch(lambda b: Trial(b, "ok" if b <= 37 else "crashed"), predicted=16, max_trials=20)
    assert (result.batch_size, result.binding, result.exact) == (37, "crashed", True)


def test_most_is_most() -> None:
    result = search_batch(lambda b: Trial(b, "ok", b * MIB, 0, GIB), predicted=16, most=20)
    assert (result.batch_size, result.binding, result.exact, result.advice) == (20, None, True, "")


@pytest.mark.parametrize("name", ["predicted", "most", "max_trials"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"\[search_batch\] {name} must be at least 1, got 0"):
        search_batch(lambda batch: Trial(batch, "ok"), **{"predicted": 1, name: 0})
