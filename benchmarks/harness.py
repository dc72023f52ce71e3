"""One interface for every competitor: outputs compared first, then timed in turn, then a row each.

A benchmark is a Case with a peer and competitors. Each is a function without arguments that does `work` units of work
and returns what it computed; all outputs must be equal before anything is timed. Rounds interleave the competitors, so
that a slow phase of the machine hits all of them, and a ratio is taken within each round.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"

COLUMNS = (
    "case",
    "competitor",
    "unit",
    "units_per_second",
    "seconds_median",
    "seconds_p20",
    "seconds_p80",
    "rounds",
    "times_peer_median",
    "times_peer_p20",
    "times_peer_p80",
    "isa",
    "threads",
    "cpu",
    "python",
    "maxcrops",
    "numpy",
    "torch",
    "transformers",
    "git_sha",
    "date",
)


@dataclass
class Competitor:
    """Something that is timed. `work` is how many units one run does; peers may do fewer than ours."""

    name: str
    run: Callable[[], Any]
    work: int
    isa: str = ""
    threads: int = 1
    setup: Callable[[], None] = lambda: None


@dataclass
class Case:
    """One question. The first competitor is the peer that ratios refer to."""

    name: str
    unit: str
    competitors: Sequence[Competitor]
    agree: Callable[[Any, Any], bool] = lambda peer, other: bool(np.array_equal(peer, other))
    rounds: int = 15
    rows: list[dict[str, Any]] = field(default_factory=list)

    def measure(self) -> list[dict[str, Any]]:
        """Compares outputs, times, and returns a row per competitor."""
        peer = self.competitors[0]
        peer.setup()
        expected = peer.run()
        for competitor in self.competitors[1:]:
            competitor.setup()
            if not self.agree(expected, competitor.run()):
                raise SystemExit(f"{self.name}: the output of {competitor.name} differs from {peer.name}'s")
        seconds: dict[str, list[float]] = {competitor.name: [] for competitor in self.competitors}
        for _ in range(self.rounds):
            for competitor in self.competitors:
                competitor.setup()
                started = time.perf_counter()
                competitor.run()
                seconds[competitor.name].append((time.perf_counter() - started) / competitor.work)
        return [self._row(competitor, seconds[competitor.name], seconds[peer.name]) for competitor in self.competitors]

    def _row(self, competitor: Competitor, own: list[float], peer: list[float]) -> dict[str, Any]:
        ratios = sorted(theirs / ours for ours, theirs in zip(own, peer, strict=True))
        own = sorted(own)
        return {
            "case": self.name,
            "competitor": competitor.name,
            "unit": self.unit,
            "units_per_second": f"{1 / statistics.median(own):.6g}",
            "seconds_median": f"{statistics.median(own):.4g}",
            "seconds_p20": f"{own[len(own) // 5]:.4g}",
            "seconds_p80": f"{own[-1 - len(own) // 5]:.4g}",
            "rounds": self.rounds,
            "times_peer_median": f"{statistics.median(ratios):.4g}",
            "times_peer_p20": f"{ratios[len(ratios) // 5]:.4g}",
            "times_peer_p80": f"{ratios[-1 - len(ratios) // 5]:.4g}",
            "isa": competitor.isa,
            "threads": competitor.threads,
        }


def repeat(function: Callable[[], Any], times: int) -> Callable[[], Any]:
    """A run of `times` calls, for work that is too short to be timed once; returns the last result."""

    def run() -> Any:
        result = None
        for _ in range(times):
            result = function()
        return result

    return run


def write_results(name: str, cases: Sequence[Case]) -> Path:
    """Measures the cases and writes results/NAME.csv; prints a line per row as it comes."""
    environment = _environment()
    rows = []
    for case in cases:
        for row in case.measure():
            rows.append({**row, **environment})
            print(
                f"{row['case']:<42} {row['competitor']:<40} {float(row['units_per_second']):>14,.0f} {row['unit']}/s"
                f"  {float(row['times_peer_median']):>10.4g}x  ({row['times_peer_p20']} to {row['times_peer_p80']})",
                flush=True,
            )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path.name}", file=sys.stderr)
    return path


def _environment() -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return ""

    def git_sha() -> str:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return result.stdout.strip()

    return {
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("maxcrops", "numpy", "torch", "transformers")},
        "git_sha": git_sha(),
        "date": time.strftime("%Y-%m-%d"),
    }


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
