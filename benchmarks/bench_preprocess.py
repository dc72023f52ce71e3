"""Preprocessing pixels: every size, max_crops, instruction set, thread count and dtype, beside the models' own code.

Each case has a process of its own. torch takes large memory from the heap; whether that has pages already, from what an
earlier case freed, makes the peer up to four times as fast: 34 or 130 ms for 3024x4032 with 8 crops on two threads.

Run:  python benchmarks/bench_preprocess.py [ROUNDS]     writes results/preprocess.csv
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method

from harness import write_results

import maxcrops as mc
from maxcrops.profiling import preprocessing
from maxcrops.profiling.harness import CaseMaker, Row, measure_all


def measure(maker: CaseMaker) -> list[Row]:
    set_start_method(None, force=True)  # the system's own again, for a loader's workers
    return list(measure_all([maker]))


def measure_apart(makers: list[CaseMaker]) -> Iterator[Row]:
    for maker in makers:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            yield from process.submit(measure, maker).result()


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    makers = [
        maker
        for key in ("molmo2", "molmo")
        for maker in preprocessing.cases(mc.get_spec(key), sources=("photo", "noise"), rounds=rounds)
    ]
    write_results("preprocess", measure_apart(makers))
