"""Preprocessing pixels: every size, max_crops, instruction set, thread count and dtype, beside the models' own code.

The rounds of a case are spread over three passes through all cases, since a shared machine can be half as fast for
minutes, and not for arithmetic as it is for memory. Each pass of a case has a process of its own: torch takes large
memory from the heap, and whether that has pages already, from what an earlier case freed, makes the peer up to four
times as fast (34 or 130 ms for 3024x4032 with 8 crops on two threads).

Run:  python benchmarks/bench_preprocess.py [ROUNDS]     writes results/preprocess.csv; in whole passes
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method

from harness import write_results
from rich.console import Console
from rich.progress import track

import maxcrops as mc
from maxcrops.profiling import preprocessing
from maxcrops.profiling.harness import CaseMaker, Row, Timings

PASSES = 3


def time_case(maker: CaseMaker, seed: int) -> Timings:
    set_start_method(None, force=True)  # the system's own again, for a loader's workers
    with maker() as case:
        return case.time(seed=seed)


def time_apart(maker: CaseMaker, seed: int) -> Timings:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(time_case, maker, seed).result()


def measure(makers: list[CaseMaker]) -> Iterator[Row]:
    timings: dict[int, Timings] = {}
    turns = [(seed, index) for seed in range(PASSES) for index in range(len(makers))]
    for seed, index in track(turns, "comparing, timing", console=Console(stderr=True)):
        measured = time_apart(makers[index], seed)
        timings[index] = timings[index] + measured if index in timings else measured
        if seed == PASSES - 1:
            yield from timings.pop(index).rows()


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    makers = [
        maker
        for key in ("molmo2", "molmo")
        for maker in preprocessing.cases(
            mc.get_spec(key), sources=("photo", "noise"), rounds=max(1, round(rounds / PASSES))
        )
    ]
    write_results("preprocess", measure(makers))
