"""Where results go. What is measured, and how, is in maxcrops.profiling.harness."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from maxcrops.profiling.harness import Row, environment, write_csv

RESULTS = Path(__file__).parent / "results"


def write_results(name: str, rows: Iterable[Row]) -> Path:
    """Writes results/NAME.csv; prints a line per row as it comes."""
    machine = environment(Path(__file__).parent)
    measured = []
    for row in rows:
        measured.append(row)
        print(
            f"{row.case:<42} {row.competitor:<40} {row.units_per_second:>14,.1f} {row.unit}/s"
            f"  {row.times_peer_median:>10.4g}x  ({row.times_peer_p20} to {row.times_peer_p80})",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    write_csv(path, measured, machine)
    print(f"wrote {path.name}", file=sys.stderr)
    return path
