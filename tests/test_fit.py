"""Fitted logs equal direct runs, and nothing is fitted that the runs do not determine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from dry_run_models import MODELS

import maxcrops as mc
from maxcrops.planning.dryrun._allocator import peak, replay, smallest_capacity
from maxcrops.planning.dryrun._dry_run import DryRuns
from maxcrops.planning.dryrun._events import EventLog
from maxcrops.planning.dryrun._fit import TOLERANCE, Features, FittedLogs, design_points, features_of
from maxcrops.planning.dryrun._launch import PHASES
from maxcrops.planning.dryrun._request import Point

Run = Callable[[Features], EventLog]


def made_log(sizes: Sequence[tuple[str, int]], *, phase: str = "forward", **totals: object) -> EventLog:
    """Allocations of (module, bytes), each freed after the next."""
    count = len(sizes)
    events = [(0, False)]
    for place in range(1, count):
        events += [(place, False), (place - 1, True)]
    modules = tuple(dict.fromkeys(module for module, _ in sizes))
    log = EventLog(
        operators=("mm",),
        modules=modules,
        event_allocation=np.array([place for place, _ in events], np.int32),
        event_is_free=np.array([is_free for _, is_free in events], np.bool_),
        num_bytes=np.array([size for _, size in sizes], np.int64),
        operator=np.zeros(count, np.int32),
        module=np.array([modules.index(module) for module, _ in sizes], np.int32),
        phase=np.full(count, PHASES.index(phase), np.int8),
        category=np.zeros(count, np.int8),
        num_operators=count,
    )
    return replace(log, **totals)  # type: ignore[arg-type]


def point(batch: int, crops: int) -> Features:
    """Of a made-up family: rows of crops end with a newline, so tokens are not proportional to crops."""
    tokens = 100 * crops + 10 * (crops // 3) + 37
    return Features(batch_size=batch, crops=crops, outputs=100 * crops, tokens=tokens, patches=400 * crops)


TABLE = [point(batch, crops) for batch in (1, 2, 4, 8) for crops in range(1, 13)]


def plain_sizes(at: Features) -> list[tuple[str, int]]:
    batch, tokens = at.batch_size, at.tokens
    return [
        ("weights", 123_456_789),
        ("vision", 2304 * batch * at.crops),
        ("language", 8192 * batch * tokens),
        ("mask", tokens * tokens),
        ("lm_head", 1_001 * batch),
        ("cut", 4 * batch * (tokens - at.outputs + 3)),
    ]


def fitted(points: Sequence[Features], run: Run) -> FittedLogs:
    logs = FittedLogs()
    while batch := design_points(points, logs):
        for features in batch:
            assert features not in logs.runs
            logs.update(features, run(features))
    return logs


def check_equal(log: EventLog | None, direct: EventLog) -> None:
    assert log is not None
    assert log.signature() == direct.signature()
    np.testing.assert_array_equal(log.num_bytes, direct.num_bytes)
    assert log.num_bytes.dtype == np.int64
    assert log.attention == direct.attention
    assert log.launches == direct.launches
    assert set(log.flops) == set(direct.flops)
    for part, value in direct.flops.items():
        assert log.flops[part] == pytest.approx(value, rel=1e-12)  # integers beyond 2**53
    total = sum(direct.traffic_bytes.values())
    for part, value in direct.traffic_bytes.items():
        assert log.traffic_bytes[part] == pytest.approx(value, abs=TOLERANCE * total)
    assert log.num_operators == pytest.approx(direct.num_operators, rel=TOLERANCE)


def test_a_table_comes_from_a_few_runs() -> None:
    def run(at: Features) -> EventLog:
        flops = {"language_model": 10**9 * at.batch_size * at.tokens + 10**6 * at.batch_size * at.tokens**2}
        traffic = {"language_model": 10**8 + 10**4 * at.batch_size * at.tokens}
        return made_log(plain_sizes(at), flops=flops, traffic_bytes=traffic)

    logs = fitted(TABLE, run)
    assert len(logs.runs) <= 6
    for at in TABLE:
        check_equal(logs.at(at), run(at))


def test_points_outside_of_the_runs_are_not_determined() -> None:
    logs = fitted(TABLE, lambda at: made_log(plain_sizes(at)))
    for at in (point(16, 5), point(4, 13), point(1, 13)):
        assert logs.at(at) is None
        assert design_points([at], logs) == [at]
    assert FittedLogs().at(point(1, 1)) is None
    assert design_points([], FittedLogs()) == []


def test_too_few_runs_determine_nothing_but_themselves() -> None:
    """An explanation is not verified by the runs that it was solved from."""
    corners = design_points(TABLE, FittedLogs())
    assert corners == [point(1, 1), point(1, 12), point(8, 1), point(8, 12)]
    logs = FittedLogs({at: made_log(plain_sizes(at)) for at in corners[:1]})
    assert logs.at(corners[0]) is logs.runs[corners[0]]
    assert logs.at(point(2, 2)) is None


def test_orders_that_change_where_it_is_known() -> None:
    """In training, a batch of one makes no copy; with many outputs a kernel takes a workspace."""
    table = [point(batch, crops) for batch in (1, 2, 8, 64) for crops in (1, 2, 3, 5, 8, 11, 14, 20, 26, 38)]

    def run(at: Features) -> EventLog:
        copies = [("copy", 4 * at.batch_size * at.tokens)] if at.batch_size > 1 else []
        chunks = [("chunk", 48 * at.batch_size * at.outputs)] if at.batch_size * at.outputs > 65535 else []
        return made_log([*plain_sizes(at)[:2], *copies, *plain_sizes(at)[2:], *chunks], phase="backward")

    logs = fitted(table, run)
    assert len(logs.runs) <= 12
    for at in table:
        check_equal(logs.at(at), run(at))


def test_padded_rows_are_a_kind_of_their_own() -> None:
    def run(at: Features) -> EventLog:
        padded = -(-at.tokens // 8) * 8
        pads = [("pad", 2 * at.batch_size * at.tokens * padded)] if at.tokens % 8 else []
        return made_log([*plain_sizes(at), *pads, ("end", 2 * at.batch_size * at.tokens * padded)])

    table = [replace(at, tokens=at.tokens + at.crops % 2 * (-at.tokens % 8)) for at in TABLE]
    assert any(at.tokens % 8 == 0 for at in table)
    logs = fitted(table, run)
    assert len(logs.runs) <= 16
    for at in table:
        check_equal(logs.at(at), run(at))


@pytest.mark.parametrize("threshold", [5, 9, 20, 50])
def test_where_something_unknown_changes_the_order_the_runs_are_direct(threshold: int) -> None:
    def run(at: Features) -> EventLog:
        extra = [("extra", 8 * at.batch_size)] if at.batch_size * at.crops > threshold else []
        return made_log([*plain_sizes(at), *extra])

    logs = fitted(TABLE, run)
    assert len(logs.runs) < len(TABLE)
    for at in TABLE:
        check_equal(logs.at(at), run(at))


def test_bytes_without_an_explanation_are_run_directly() -> None:
    def run(at: Features) -> EventLog:
        return made_log([*plain_sizes(at), ("odd", hash((at.batch_size, at.crops)) % 10**6 + 1)])

    table = TABLE[:16]
    assert set(fitted(table, run).runs) == set(table)


def test_allocations_that_do_not_correspond_are_told_apart() -> None:
    """Two of one module, of which the first is missing in other runs: the second takes its place there."""

    def run(at: Features) -> EventLog:
        first = [("language", 24 * at.batch_size * at.outputs)] if at.batch_size > 1 else []
        return made_log([*first, *plain_sizes(at)], phase="backward")

    logs = fitted(TABLE, run)
    assert len(logs.runs) <= 12
    for at in TABLE:
        check_equal(logs.at(at), run(at))


def test_fitting_and_rebuilding_are_quick() -> None:
    def run(at: Features) -> EventLog:
        return made_log(
            [(f"layer {place % 500}", (place % 80 + 1) * at.batch_size * at.tokens) for place in range(20000)]
        )

    runs = {at: run(at) for at in (point(1, 1), point(1, 12), point(8, 1), point(8, 12), point(4, 5))}
    start = time.perf_counter()
    logs = FittedLogs(runs)
    logs.at(point(2, 6))
    assert time.perf_counter() - start < 5
    start = time.perf_counter()
    for crops in range(1, 12):
        check_equal(logs.at(point(2, crops)), run(point(2, crops)))
    assert time.perf_counter() - start < 5


def test_features_are_those_of_the_layout() -> None:
    spec = mc.get_spec("molmo2-8b")
    at = Point(batch_size=3, sizes=((800, 900), (378, 378)), max_crops=12, text_tokens=100)
    images = [mc.layout(spec, height=height, width=width, max_crops=12) for height, width in at.sizes]
    assert features_of(spec, at) == Features(
        batch_size=3,
        crops=sum(image.num_crops for image in images),
        outputs=sum(image.connector_outputs for image in images),
        tokens=sum(image.sequence_tokens for image in images) + 100,
        patches=sum(image.vit_patches for image in images),
    )


# -- real models -------------------------------------------------------------------------------------------------------


class Table:
    """The wanted points of a model, and its direct runs."""

    def __init__(self, runs: DryRuns, max_crops: Sequence[int], batch_sizes: Sequence[int]) -> None:
        points = [runs._point(batch, value, None) for value in max_crops for batch in batch_sizes]
        self.points = {features_of(runs.spec, at): at for at in points}
        self._runs = runs

    def run(self, features: Features) -> EventLog:
        return self._runs._run(self.points[features])

    def check(self, logs: FittedLogs, count: int) -> None:
        """Direct runs of some points, and what the allocator makes of them, against the fit."""
        rest = [features for features in self.points if features not in logs.runs]
        for features in random.Random(0).sample(rest, min(count, len(rest))):
            log, direct = logs.at(features), self.run(features)
            check_equal(log, direct)
            assert log is not None
            assert peak(log) == peak(direct)
            assert replay(log).reserved_peak == replay(direct).reserved_peak
            assert smallest_capacity(log) == smallest_capacity(direct)


@pytest.fixture
def opened() -> Iterator[Callable[..., DryRuns]]:
    """Makes DryRuns that are closed after the test."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made: list[DryRuns] = []

    def make(*args: object, **settings: object) -> DryRuns:
        made.append(DryRuns(*args, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runs in made:
        runs.__exit__()


@pytest.mark.parametrize(
    ("name", "mode"), [("molmo2", "prefill"), pytest.param("smolvlm", "train", marks=pytest.mark.oracle)]
)
def test_fits_equal_direct_runs_of_small_models(name: str, mode: str, opened: Callable[..., DryRuns]) -> None:
    small = MODELS[name]
    runs = opened(small.config, small.spec, mode=mode, gradient_checkpointing=mode == "train", text_tokens=37)
    table = Table(runs, (1, 2, 4, 9, 12, 16), (1, 2, 4, 8))
    logs = fitted(list(table.points), table.run)
    assert len(logs.runs) < len(table.points) * 2 / 3
    table.check(logs, 2)


MAX_CROPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 27, 30, 34, 38)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "mode", "device", "most_runs"),
    [
        ("molmo2-8b", "prefill", "h100", 8),
        ("molmo2-8b", "prefill", "a100-80gb", 10),
        ("molmo2-8b", "train", "h100", 9),
        ("molmo-7b-d", "prefill", "h100", 8),
        ("internvl3-8b", "prefill", "h100", 8),
        ("smolvlm-instruct", "prefill", "h100", 8),
        ("smolvlm-instruct", "train", "h100", 10),
        ("idefics3-8b-llama3", "prefill", "h100", 8),
        ("llava-v1.6-mistral-7b", "prefill", "h100", 18),  # it loops over samples: each batch size has an order
    ],
)
def test_fits_equal_direct_runs(
    name: str, mode: str, device: str, most_runs: int, opened: Callable[..., DryRuns]
) -> None:
    runs = opened(name, mc.get_spec(name), mode=mode, device=device, gradient_checkpointing=mode == "train")
    table = Table(runs, [value for value in MAX_CROPS if value > 1 or "llava" not in name], BATCH_SIZES)
    logs = fitted(list(table.points), table.run)
    assert len(logs.runs) <= most_runs
    table.check(logs, 6)
