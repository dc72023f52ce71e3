"""One command on a machine with CUDA: the GPU's tests, then every competitor's time, then the bars.

Run:  python benchmarks/gpu_check.py [--budget SECONDS]     writes results/gpu-DEVICE.csv, each row as it is measured

Builds the extension where it cannot be imported. Exits with 1 if a test fails, an output is wrong or, on an H100, a bar
is missed; with 2 without CUDA.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_cases import CudaDevice, Row

ROOT = Path(__file__).parent.parent
BUDGET = 420.0  # seconds, of everything; with what is under way then, the whole ends within eight minutes
MOST_SECONDS = {"build": 240.0, "tests": 150.0, "compute-sanitizer": 75.0}


def ensure_built(run: Callable[..., Any] = subprocess.run) -> None:
    """Installs the package where its extension cannot be imported."""
    # In a process of its own: a failed import leaves parts behind. Not in the root, whose sources would hide it.
    probe = [sys.executable, "-c", "import maxcrops._core"]
    if run(probe, cwd=ROOT / "benchmarks", capture_output=True).returncode == 0:
        return
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "."]
    print("building:", *command[1:], flush=True)
    run(command, cwd=ROOT, check=True, timeout=MOST_SECONDS["build"])
    run(probe, cwd=ROOT / "benchmarks", check=True)
    importlib.invalidate_caches()


def passes(
    name: str, prefix: Sequence[str] = (), selection: Sequence[str] = (), run: Callable[..., Any] = subprocess.run
) -> bool | None:
    """Whether tests/test_gpu.py passes; None if it is not done in time."""
    options = ["-q", "-W", "default", "-p", "no:cacheprovider"]
    command = [*prefix, sys.executable, "-m", "pytest", *options, *selection, "test_gpu.py"]
    environment = {**os.environ, "MAXCROPS_REQUIRE_CUDA": "1"}
    if prefix:
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # a block of its own for every tensor
    print(f"{name}:", flush=True)
    try:
        done = run(command, cwd=ROOT / "tests", env=environment, timeout=MOST_SECONDS[name])
    except subprocess.TimeoutExpired:
        print(f"{name}: not done within {MOST_SECONDS[name]:.0f} s", flush=True)
        return None
    return bool(done.returncode == 0)


def sanitized() -> bool | None:
    """None where there is no compute-sanitizer, or it takes too long: it is slow, and no part of the bars."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer: not on PATH", flush=True)
        return None
    prefix = [tool, "--report-api-errors", "no", "--error-exitcode", "9"]
    return passes("compute-sanitizer", prefix, ["-k", "odd_sizes"])


# -- results -------------------------------------------------------------------------------------------------------


class Results:
    """A file to which rows are added one by one, with the machine's columns behind each."""

    def __init__(self, path: Path, columns: Iterable[str], machine: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = path.open("w", newline="", encoding="utf-8")
        self._machine = machine
        self._writer = csv.DictWriter(self._handle, fieldnames=[*columns, *machine], lineterminator="\n")
        self._writer.writeheader()

    def add(self, row: Row) -> None:
        self._writer.writerow({**asdict(row), **self._machine})
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()


def machine_of(device: CudaDevice, bandwidths: Mapping[str, float]) -> dict[str, Any]:
    import torch
    import triton

    from maxcrops.profiling.harness import environment

    properties = device.properties
    return {
        "gpu": properties.name,
        "gpu_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "l2_bytes": device.l2_bytes,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        **{f"{source}_bytes_per_second": f"{value:.4g}" for source, value in bandwidths.items()},
        **environment(ROOT / "benchmarks"),
        "torch": torch.__version__,  # with its CUDA's, which the package's metadata may lack
    }


def line(row: Row) -> str:
    return (
        f"{row.model:<7} {row.height}x{row.width:<5} max_crops {row.max_crops} x {row.batch:<2} {row.source:<6}"
        f" {row.dtype:<8} {row.competitor:<26} {row.timing:<6} {1e6 * row.seconds_median:>10,.1f} us"
        f" ({1e6 * row.seconds_p20:,.1f} to {1e6 * row.seconds_p80:,.1f}) {row.images_per_second:>9,.0f} images/s"
        f" {row.share_of_floor:>6.1%} of the floor; {row.share_different:.2%} of values differ"
    )


# -- bars ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    what: str
    wanted: float
    got: float | None
    """None: not measured."""
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        if self.got is None:
            return False
        return self.got <= self.wanted if self.is_most else self.got >= self.wanted

    def __str__(self) -> str:
        got = "not measured" if self.got is None else f"{self.got:,.4g}"
        verdict = "met" if self.is_met else "MISSED"
        return f"{verdict:<6} {self.what}: {'at most' if self.is_most else 'at least'} {self.wanted:,.4g}, got {got}"


def bars(rows: Sequence[Row], launches: Mapping[str, int | None]) -> list[Bar]:
    """The goals on an H100. Throughput is of calls one behind the other, latency of one alone, the share of the copy
    bandwidth that of the device's part."""
    from gpu_cases import OURS, SIZES, TRANSFORMERS

    def find(model: str, batch: int, name: str, timing: str) -> Row | None:
        wanted = (model, *SIZES[0], 12, batch, "device", "bfloat16", name, timing)
        for row in rows:
            key = (row.model, row.height, row.width, row.max_crops, row.batch, row.source, row.dtype)
            if (*key, row.competitor, row.timing) == wanted:
                return row
        return None

    def times(batch: int, timing: str) -> float | None:
        ours, theirs = (find("molmo2", batch, name, timing) for name in (OURS, TRANSFORMERS))
        return theirs.seconds_median / ours.seconds_median if ours and theirs else None

    def of(row: Row | None, quantity: str) -> float | None:
        return getattr(row, quantity) if row else None

    size = "x".join(map(str, SIZES[0]))
    found = [Bar(f"{model}, launches of a ragged batch", 2, count, is_most=True) for model, count in launches.items()]
    for model, wanted in (("molmo2", 100_000), ("molmo", 50_000)):
        rate = of(find(model, 64, OURS, "queued"), "images_per_second")
        found.append(Bar(f"{model}, {size} on the device to bfloat16, batch 64, images/s", wanted, rate))
    found.append(Bar("molmo2, batch 64, times transformers on the device", 10, times(64, "queued")))
    found.append(Bar("molmo2, batch 1, times transformers on the device", 5, times(1, "alone")))
    for model in launches:
        share = of(find(model, 64, OURS, "device"), "share_of_floor")
        found.append(Bar(f"{model}, batch 64, share of the copy bandwidth", 0.8, share))
    return found


# -- the run -------------------------------------------------------------------------------------------------------


def max_clock_hz() -> float:
    """Of the multiprocessors, as the driver tells; 0 if it does not."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        told: str = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(told.split()[0]) * 1e6
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return 0.0


def measure(device: Any, results_path: Path, left: Callable[[], float]) -> tuple[list[Row], list[str]]:
    """Rows, and what is wrong. Predictions are printed first."""
    import gpu_cases

    bandwidths = {source: device.copy_bandwidth(source) for source in ("device", "pinned")}
    lanes_hz = device.properties.multi_processor_count * 128 * max_clock_hz() or float("nan")
    print("copies, GB/s:", {source: f"{value / 1e9:.1f}" for source, value in bandwidths.items()})
    every = gpu_cases.cases()
    floors = {}
    print("the least that a batch takes: MB read, MB written, G operations; us that bytes and operations allow")
    for case in every:
        work = gpu_cases.work_of(case)
        by_bytes, by_operations = work.seconds(bandwidths["device"], lanes_hz)
        floors[case] = max(by_bytes, work.bytes_read / bandwidths["pinned"] if case.source == "pinned" else 0)
        print(
            f"{case.name:<56} {work.bytes_read / 1e6:>9,.1f} {work.bytes_written / 1e6:>9,.1f}"
            f" {work.operations / 1e9:>8,.2f} {1e6 * by_bytes:>9,.1f} {1e6 * by_operations:>9,.1f}"
        )
    rows: list[Row] = []
    wrong: list[str] = []
    columns = [field.name for field in fields(gpu_cases.Row)]
    with Results(results_path, columns, machine_of(device, bandwidths)) as results:
        for index, case in enumerate(every):
            if left() <= 0:
                print(f"the budget is spent; {len(every) - index} of {len(every)} cases skipped, from {case.name}")
                break
            try:
                for row in gpu_cases.rows_of(case, device, floors[case], lambda: left() > 0, print):
                    rows.append(row)
                    results.add(row)
                    print(line(row), flush=True)
            except Exception as error:  # the cases behind it may still tell something
                wrong.append(f"{case.name}: {type(error).__name__}: {error}")
                print(wrong[-1], flush=True)
    return rows, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tests, times and bars of the Triton backend, on a machine with CUDA.")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds for everything (default: {BUDGET:.0f})")
    parser.add_argument("--output", type=Path, help="CSV file (default: results/gpu-DEVICE.csv)")
    chosen = parser.parse_args(arguments)
    deadline: float = time.monotonic() + chosen.budget

    def left() -> float:
        return deadline - time.monotonic()

    try:
        import torch
    except ImportError:
        print("gpu_check: torch is not installed; install a torch with CUDA", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("gpu_check: torch sees no CUDA device; run this on a machine with one", file=sys.stderr)
        return 2
    os.environ |= {"HF_HUB_OFFLINE": "1"}  # nothing is fetched
    ensure_built()
    wrong = [] if passes("tests") else ["tests: failed or not done"]
    if sanitized() is False:
        wrong.append("compute-sanitizer: found errors, or a test failed")
    import gpu_cases

    device = gpu_cases.CudaDevice()
    launches: dict[str, int | None] = {}
    for model in gpu_cases.MODELS:
        try:
            launches[model] = gpu_cases.ragged_launches(model, device, gpu_cases.count_launches) or None
        except RuntimeError as error:
            wrong.append(f"{model}, launches: {error}")
            launches[model] = None
    slug = re.sub(r"[^a-z0-9]+", "-", device.properties.name.lower()).strip("-")
    path = chosen.output or ROOT / "benchmarks" / "results" / f"gpu-{slug}.csv"
    rows, failed = measure(device, path, left)
    return verdict(bars(rows, launches), [*wrong, *failed], device.properties.name)


def verdict(found: Sequence[Bar], wrong: Sequence[str], gpu: str) -> int:
    """Prints the bars and what is wrong; the exit status."""
    print(f"bars, set for an H100; this is {gpu}")
    print("\n".join(map(str, found)))
    for words in wrong:
        print(f"WRONG {words}", file=sys.stderr)
    missed = "H100" in gpu and not all(bar.is_met for bar in found)
    return int(bool(wrong) or missed)


if __name__ == "__main__":
    raise SystemExit(main())
