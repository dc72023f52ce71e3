"""One interface for every competitor: outputs compared first, then timed in turn, then a row each.

A benchmark is a Case with competitors. Each is a function without arguments that does `work` units of work and returns
what it computed; all outputs must be equal before anything is timed. Rounds interleave the competitors, so that a slow
phase of the machine hits all of them, and a ratio is taken within each round. Each round has an order of its own: what
ran before leaves the caches warm or cold, and no one shall always come behind the same one.
"""

from __future__ import annotations

import csv
import os
import platform
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from maxcrops.exceptions import MaxCropsError

PACKAGES = ("maxcrops", "numpy", "torch", "torchvision", "transformers", "pillow")


class OutputsDifferError(MaxCropsError):
    """A competitor computes something else than it should, so its time would mean nothing."""


def _nothing() -> None:
    pass


def _equal(expected: Any, got: Any) -> bool:
    return bool(np.array_equal(expected, got))


@dataclass
class Competitor:
    """Something that is timed."""

    name: str
    run: Callable[[], Any]
    work: int
    """Units of work that a run does; peers may do fewer than ours."""
    isa: str = ""
    threads: int = 1
    dtype: str = ""
    setup: Callable[[], None] = _nothing
    """Called before each run, outside the clock."""
    peer: str = ""
    """The competitor that ratios refer to; the first of the case where empty."""
    floor: str = ""
    """The competitor that does the least that the work needs, where there is one."""
    same_as: str | None = ""
    """The competitor with the expected output; the first of the case where empty, none where None."""


@dataclass(frozen=True)
class Row:
    """What was measured of one competitor, with 20th and 80th percentiles over the rounds."""

    case: str
    competitor: str
    unit: str
    units_per_second: float
    seconds_median: float
    """Of one unit of work."""
    seconds_p20: float
    seconds_p80: float
    rounds: int
    peer: str
    times_peer_median: float
    """How many times as fast as the peer."""
    times_peer_p20: float
    times_peer_p80: float
    times_floor_median: float | None
    """How many times as slow as the floor."""
    isa: str
    threads: int
    dtype: str


@dataclass(frozen=True)
class Timing:
    """The rounds of one competitor."""

    name: str
    seconds: tuple[float, ...]
    """Of one unit of work, in each round."""
    peer: str
    floor: str
    isa: str
    threads: int
    dtype: str


@dataclass(frozen=True)
class Timings:
    """The rounds of a case: numbers, which another process may have measured."""

    case: str
    unit: str
    competitors: tuple[Timing, ...]

    def __add__(self, later: Timings) -> Timings:
        """The same case with the rounds of both.

        Raises:
            ValueError: it is another case, or its competitors are others.
        """
        if self._columns() != later._columns():
            raise ValueError(f"[bench] rounds of {self.case} and of {later.case} are not of the same competitors")
        together = (
            replace(one, seconds=one.seconds + other.seconds)
            for one, other in zip(self.competitors, later.competitors, strict=True)
        )
        return replace(self, competitors=tuple(together))

    def _columns(self) -> Timings:
        """All but the numbers."""
        return replace(self, competitors=tuple(replace(one, seconds=()) for one in self.competitors))

    def rows(self) -> list[Row]:
        seconds = {one.name: one.seconds for one in self.competitors}
        return [self._row(one, seconds) for one in self.competitors]

    def _row(self, one: Timing, seconds: Mapping[str, Sequence[float]]) -> Row:
        own, theirs, least = one.seconds, seconds[one.peer], seconds.get(one.floor, ())
        fifth = len(own) // 5
        ordered = sorted(own)
        ratios = sorted(peer / ours for ours, peer in zip(own, theirs, strict=True))
        above = [ours / floor for ours, floor in zip(own, least, strict=False)]
        return Row(
            case=self.case,
            competitor=one.name,
            unit=self.unit,
            units_per_second=_digits(1 / statistics.median(own), 6),
            seconds_median=_digits(statistics.median(own)),
            seconds_p20=_digits(ordered[fifth]),
            seconds_p80=_digits(ordered[-1 - fifth]),
            rounds=len(own),
            peer=one.peer,
            times_peer_median=_digits(statistics.median(ratios)),
            times_peer_p20=_digits(ratios[fifth]),
            times_peer_p80=_digits(ratios[-1 - fifth]),
            times_floor_median=_digits(statistics.median(above)) if above else None,
            isa=one.isa,
            threads=one.threads,
            dtype=one.dtype,
        )


@dataclass
class Case:
    """One question."""

    name: str
    unit: str
    competitors: Sequence[Competitor]
    agree: Callable[[Any, Any], bool] = _equal
    """Called with the expected output and a competitor's."""
    rounds: int = 15
    rest: float = 0.0
    """Seconds before each run, where a competitor's threads still spin for a while after it."""

    def measure(self, on_run: Callable[[float], None] = lambda _: None) -> list[Row]:
        """A row per competitor; see `time`."""
        return self.time(on_run).rows()

    def time(self, on_run: Callable[[float], None] = lambda _: None, seed: int = 0) -> Timings:
        """Compares outputs, then times.

        Args:
            on_run: called after each run, the ones that are compared included, with the part of the case that is done.
            seed: of the orders of the rounds.

        Raises:
            OutputsDifferError: a competitor's output is not the expected one; nothing was timed.
            ValueError: two competitors share a name, or one refers to a name that no one has.
        """
        self._check_names()
        total = len(self.competitors) * (self.rounds + 1)
        done = 0

        def note() -> None:
            nonlocal done
            done += 1
            on_run(done / total)

        self._compare(note)
        seconds: dict[str, list[float]] = {competitor.name: [] for competitor in self.competitors}
        shuffled = random.Random(seed)
        for _ in range(self.rounds):
            for competitor in shuffled.sample(self.competitors, len(self.competitors)):
                competitor.setup()
                if self.rest:
                    time.sleep(self.rest)
                started = time.perf_counter()
                output = competitor.run()
                seconds[competitor.name].append((time.perf_counter() - started) / competitor.work)
                del output  # freed outside the clock
                note()
        first = self.competitors[0].name
        timings = (
            Timing(one.name, tuple(seconds[one.name]), one.peer or first, one.floor, one.isa, one.threads, one.dtype)
            for one in self.competitors
        )
        return Timings(self.name, self.unit, tuple(timings))

    def _check_names(self) -> None:
        names = Counter(competitor.name for competitor in self.competitors)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"[bench] {self.name}: names must differ, {twice[0]!r} is there twice")
        for competitor in self.competitors:
            for name in (competitor.peer, competitor.floor, competitor.same_as):
                if name and name not in names:
                    raise ValueError(f"[bench] {self.name}: {competitor.name} refers to {name!r}, which is not there")

    def _compare(self, note: Callable[[], None]) -> None:
        """Runs each competitor once, those that others are compared with first."""
        by_name = {competitor.name: competitor for competitor in self.competitors}
        first = self.competitors[0].name
        reference = {name: one.same_as or first for name, one in by_name.items() if one.same_as is not None}

        def run(name: str) -> Any:
            by_name[name].setup()
            output = by_name[name].run()
            note()
            return output

        expected = {name: run(name) for name in dict.fromkeys(reference.values())}
        for name in by_name:
            output = expected[name] if name in expected else run(name)
            wanted = reference.get(name, name)
            if wanted != name and not self.agree(expected[wanted], output):
                raise OutputsDifferError(
                    f"[bench] {self.name}: the output of {name} differs from that of {wanted}; nothing was timed"
                )


CaseMaker: TypeAlias = Callable[[], AbstractContextManager[Case]]
"""Makes a case when its turn comes, so that the images and outputs of one case are in memory at a time."""


def measure_all(
    makers: Sequence[CaseMaker], on_run: Callable[[str, float], None] = lambda _, __: None
) -> Iterator[Row]:
    """Rows of one case after the other; `on_run` is called with the case and the number of cases done, in parts too."""
    for index, maker in enumerate(makers):
        with maker() as case:
            on_run(case.name, index)
            yield from case.measure(partial(_tell, on_run, case.name, index))
        del case  # what it holds is freed before the next one is made


def _tell(on_run: Callable[[str, float], None], name: str, before: int, part: float) -> None:
    on_run(name, before + part)


def repeat(function: Callable[[], Any], times: int) -> Callable[[], Any]:
    """A run of `times` calls, for work that is too short to be timed once; returns the last result."""

    def run() -> Any:
        result = None
        for _ in range(times):
            result = function()
        return result

    return run


def environment(repository: str | PathLike[str] | None = None) -> dict[str, str]:
    """What a row depends on beside the code: CPU, versions, date; and the commit where a clone is given.

    The load average, of the last minute, says whether other processes ran; so this is called before the timing.
    """
    return {
        "cpu": _cpu_name(),
        "load_average": _load_average(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "git_sha": "" if repository is None else _git_sha(repository),
        "date": time.strftime("%Y-%m-%d"),
    }


COLUMNS = (*(field.name for field in fields(Row)), "cpu", "load_average", "python", *PACKAGES, "git_sha", "date")
"""Of a results file."""


def write_csv(path: str | PathLike[str], rows: Sequence[Row], machine: dict[str, str]) -> None:
    """A line per row, with the machine's columns (from `environment`) behind each."""
    with Path(path).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), **machine} for row in rows)


def _digits(value: float, count: int = 4) -> float:
    return float(f"{value:.{count}g}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git_sha(repository: str | PathLike[str]) -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False).stdout.strip()


def _load_average() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _cpu_name() -> str:
    """As the operating system names it, with the number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
