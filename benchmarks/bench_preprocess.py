"""Preprocessing pixels: every size, max_crops, instruction set, thread count and dtype, beside the models' own code.

Run:  python benchmarks/bench_preprocess.py [ROUNDS]     writes results/preprocess.csv
"""

from __future__ import annotations

import sys

from harness import write_results

import maxcrops as mc
from maxcrops.profiling import preprocessing
from maxcrops.profiling.harness import measure_all

if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    makers = [
        maker
        for key in ("molmo2", "molmo")
        for maker in preprocessing.cases(mc.get_spec(key), sources=("photo", "noise"), rounds=rounds)
    ]
    write_results("preprocess", measure_all(makers))
