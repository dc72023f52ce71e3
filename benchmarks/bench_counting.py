"""Counting grids and tokens: ours per instruction set and thread count beside transformers' own per-image functions.

Run:  python benchmarks/bench_counting.py     writes results/counting.csv
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from harness import write_results

from maxcrops.profiling._torchvision import declare_missing
from maxcrops.profiling.harness import Case, Competitor, repeat

declare_missing()

from transformers.image_processing_utils import select_best_resolution  # noqa: E402
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas  # noqa: E402
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor  # noqa: E402
from transformers.models.molmo2.image_processing_molmo2 import (  # noqa: E402
    Molmo2ImageProcessor,
    compute_crop_geometry,
)

import maxcrops as mc  # noqa: E402
from maxcrops import _core  # noqa: E402

torch.set_num_threads(1)

BATCH = 1 << 20
SAMPLE = 200  # images of a batch that a peer counts: its cost an image does not depend on the batch
MOLMO = mc.get_spec("molmo-7b-d")


def image_sizes(count: int, seed: int = 0) -> np.ndarray:
    """(height, width), both log-uniform in 64 to 6000 px: thumbnails to photographs, ratios up to 1:94."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(np.log(64), np.log(6000), (count, 2))).astype(np.int64)


SIZES = image_sizes(BATCH)


def molmo_tokens(rows: int, cols: int) -> int:
    """Molmo's sequence tokens, to compare the peer's grids with our counts."""
    return 158 + 2 + (8 * rows + 4) * (8 * cols + 5)


def ours(case_spec: mc.Spec, max_crops: int | None, *, isa: str = "", threads: int = 1) -> Competitor:
    """Batch counting on one instruction set; the output is the sample that the peer counts too."""

    def setup() -> None:
        os.environ["MAXCROPS_CPU_ISA"] = isa
        if isa and _core.active_isa() != isa:
            raise SystemExit(f"{isa} was asked for and {_core.active_isa()} runs")

    def run() -> np.ndarray:
        return mc.count_tokens(case_spec, SIZES, max_crops=max_crops, num_threads=threads)[:SAMPLE]

    name = "maxcrops, batch" + (f", {isa}" if isa else "") + (f", {threads} threads" if threads > 1 else "")
    vectorised = case_spec.grid.policy == "scale_fit"  # the other policies have one loop
    return Competitor(
        name, run, BATCH, isa=(isa or _core.active_isa()) if vectorised else "scalar", threads=threads, setup=setup
    )


def per_image(name: str, count: object) -> Competitor:
    """A peer that counts one image at a time."""
    return Competitor(name, lambda: np.array([count(int(h), int(w)) for h, w in SIZES[:SAMPLE]]), SAMPLE)


def batch_case(max_crops: int) -> Case:
    def upstream(height: int, width: int) -> int:
        rows, cols, _, _ = compute_crop_geometry(height, width, max_crops, [4, 4], 336, 14)
        return molmo_tokens(rows, cols)

    isas = _core.available_isas()
    return Case(
        f"batch, Molmo, max_crops {max_crops}",
        "images",
        [
            per_image("transformers, compute_crop_geometry", upstream),
            *(ours(MOLMO, max_crops, isa=isa) for isa in isas),
            ours(MOLMO, max_crops, isa=isas[-1], threads=2),
        ],
    )


def cost_of_max_crops() -> Case:
    """The same batch at 12 and at 1000 crops; outputs differ by design."""
    few, many = ours(MOLMO, 12), ours(MOLMO, 1000)
    few.name, many.name = "maxcrops, batch, max_crops 12", "maxcrops, batch, max_crops 1000"
    return Case("batch, Molmo, 12 against 1000", "images", [few, many], agree=lambda _, __: True)


def one_call_case(max_crops: int) -> Case:
    spec = mc.get_spec("molmo2")
    processor = Molmo2ImageProcessor()
    calls = 2000

    def upstream() -> tuple[int, int]:
        (_, _, rows, cols), crops = processor.get_image_grid_and_crops(1080, 1920, {"max_crops": max_crops})
        return 212 + 2 + rows * (cols + 1), crops

    def layout() -> tuple[int, int]:
        cut = mc.layout(spec, height=1080, width=1920, max_crops=max_crops)
        return cut.sequence_tokens, cut.num_crops

    return Case(
        f"one call, Molmo2, 1080x1920, max_crops {max_crops}",
        "calls",
        [
            Competitor("transformers, get_image_grid_and_crops", repeat(upstream, 20), 20),
            Competitor("maxcrops.layout", repeat(layout, calls), calls),
        ],
    )


def worst_case_case(max_crops: int) -> Case:
    spec = mc.get_spec("molmo2")
    processor = Molmo2ImageProcessor(max_crops=max_crops)
    grids = [(r, c) for r in range(1, max_crops + 1) for c in range(1, max_crops // r + 1)]

    def upstream() -> int:
        worst = 0
        for grid_rows, grid_cols in grids:
            size = (266 * grid_rows + 112, 266 * grid_cols + 112)
            (_, _, rows, cols), _ = processor.get_image_grid_and_crops(*size)
            worst = max(worst, 212 + 2 + rows * (cols + 1))
        return worst

    calls = 2000
    return Case(
        f"worst case, Molmo2, max_crops {max_crops}",
        "bounds",
        [
            Competitor(f"transformers, each of {len(grids)} grids", upstream, 1),
            Competitor(
                "maxcrops.worst_case",
                repeat(lambda: mc.worst_case(spec, max_crops=max_crops).tokens, calls),
                calls,
            ),
        ],
        rounds=7,
    )


def policy_cases() -> list[Case]:
    """The other grid policies, at their published settings."""
    internvl, llava = mc.get_spec("internvl3-8b"), mc.get_spec("llava-v1.6-mistral-7b")
    idefics = mc.get_spec("idefics3-8b-llama3")
    llava_crops = {size: (size[0] // 336) * (size[1] // 336) + 1 for size in llava.resolutions}
    processor = Idefics3ImageProcessor()

    def internvl_upstream(height: int, width: int) -> int:
        cols, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, 12)
        return 258 if rows * cols == 1 else 2 + 256 * (rows * cols + 1)

    def llava_upstream(height: int, width: int) -> int:
        return llava_crops[select_best_resolution((height, width), list(llava.resolutions))]

    def idefics_upstream(height: int, width: int) -> int:
        _, rows, cols = processor.get_number_of_image_patches(height, width)
        return 172 + rows * (171 * cols + 1)

    def llava_ours() -> np.ndarray:
        return mc.count_tokens(llava, SIZES, count="crops")[:SAMPLE]

    return [
        Case(
            "batch, closest_ratio (InternVL)",
            "images",
            [per_image("transformers, get_optimal_tiled_canvas", internvl_upstream), ours(internvl, None)],
        ),
        Case(
            "batch, best_resolution (LLaVA-NeXT), crops",
            "images",
            [
                per_image("transformers, select_best_resolution", llava_upstream),
                Competitor("maxcrops, batch", llava_ours, BATCH, isa="scalar"),
            ],
        ),
        Case(
            "batch, ceil_grid (Idefics3)",
            "images",
            [per_image("transformers, get_number_of_image_patches", idefics_upstream), ours(idefics, None)],
        ),
    ]


def command_line_case() -> Case:
    """The whole command in a new process, beside an interpreter that does nothing."""

    def run(*command: str) -> int:
        here = Path(__file__).parent  # not the root, whose folder maxcrops holds no extension
        return subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True, cwd=here).returncode

    return Case(
        "command line",
        "runs",
        [
            Competitor("python -c pass", lambda: run("-c", "pass"), 1),
            Competitor("maxcrops plan molmo-7b-d", lambda: run("-m", "maxcrops", "plan", "molmo-7b-d"), 1),
        ],
    )


def cases() -> Iterator[Case]:
    yield batch_case(12)
    yield batch_case(36)
    yield cost_of_max_crops()
    yield one_call_case(8)
    yield one_call_case(24)
    yield worst_case_case(128)
    yield from policy_cases()
    yield command_line_case()


if __name__ == "__main__":
    write_results("counting", (row for case in cases() for row in case.measure()))
