"""Counting grids and tokens: ours per instruction set and thread count beside transformers' own per-image functions.

Run:  python benchmarks/bench_counting.py     writes results/counting.csv
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from harness import write_results

from maxcrops.profiling._torchvision import declare_missing
from maxcrops.profiling.harness import Case, Competitor, repeat

declare_missing()

from transformers.image_processing_utils import select_best_resolution  # noqa: E402
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor  # noqa: E402
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas  # noqa: E402
from transformers.models.granite_docling.image_processing_granite_docling import (  # noqa: E402
    GraniteDoclingImageProcessor,
)
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor  # noqa: E402
from transformers.models.minicpmv4_6.image_processing_minicpmv4_6 import MiniCPMV4_6ImageProcessor  # noqa: E402
from transformers.models.molmo2.image_processing_molmo2 import (  # noqa: E402
    Molmo2ImageProcessor,
    compute_crop_geometry,
)
from transformers.models.ovis2.image_processing_ovis2 import get_min_tile_covering_grid  # noqa: E402
from transformers.models.perception_lm.image_processing_perception_lm import PerceptionLMImageProcessor  # noqa: E402
from transformers.models.step3p7.image_processing_step3p7 import Step3p7ImageProcessor  # noqa: E402

import maxcrops as mc  # noqa: E402
from maxcrops import _core  # noqa: E402

torch.set_num_threads(1)

BATCH = 1 << 20
SAMPLE = 200  # images of a batch that a peer counts: its cost an image does not depend on the batch
MOLMO = mc.get_spec("molmo-7b-d")

FindGrid: TypeAlias = Callable[[int, int], "tuple[int, int] | None"]
"""(rows, cols) of an image of (height, width); None where it is not split."""


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
    return Competitor(name, run, BATCH, isa=isa or _core.active_isa(), threads=threads, setup=setup)


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


def policy_case(label: str, spec: mc.Spec, peer: str = "", grid: FindGrid | None = None) -> Case:
    """A grid policy at a family's own setting: grids beside the upstream's search, and tokens, held to it by tests."""

    def found(height: int, width: int) -> tuple[int, int]:
        assert grid is not None
        return grid(height, width) or (0, 0)

    def ours_of(count: Callable[..., np.ndarray], what: str, same_as: str | None) -> Competitor:
        isa = _core.active_isa() if spec.grid.policy == "scale_fit" else "scalar"  # the other policies have one loop
        return Competitor(
            f"maxcrops, {what}", lambda: count(spec, SIZES)[:SAMPLE], BATCH, isa=isa, threads=1, same_as=same_as
        )

    grids = ours_of(mc.grids, "grids", "")
    tokens = ours_of(mc.count_tokens, "tokens", None)
    peers = [] if grid is None else [per_image(f"transformers, {peer}", found)]
    return Case(f"batch, {spec.grid.policy} ({label})", "images", [*peers, grids, tokens], rounds=7)


def policy_cases() -> Iterator[Case]:
    """Every policy but scale_fit, by a family that takes longest; with splitting on."""
    tiles = get_optimal_tiled_canvas.__wrapped__  # without its cache
    covering = get_min_tile_covering_grid.__wrapped__
    docling, idefics, minicpm = GraniteDoclingImageProcessor(), Idefics3ImageProcessor(), MiniCPMV4_6ImageProcessor()
    perception, gemma, step = PerceptionLMImageProcessor(), Gemma3ImageProcessor(), Step3p7ImageProcessor()
    llava = mc.get_spec("llava_onevision")

    def llava_grid(height: int, width: int) -> tuple[int, int]:
        canvas = select_best_resolution((height, width), list(llava.resolutions))
        return canvas[0] // llava.crop_size, canvas[1] // llava.crop_size

    def idefics_grid(height: int, width: int) -> tuple[int, int]:
        _, rows, cols = idefics.get_number_of_image_patches(height, width)
        return rows, cols

    def perception_grid(height: int, width: int) -> tuple[int, int]:
        found = perception._fit_image_to_canvas(width, height, 448)
        cols, rows = found or perception._find_closest_aspect_ratio(width, height, 448)
        return rows, cols

    def gemma_grid(height: int, width: int) -> tuple[int, int]:
        image = torch.empty(1).expand(1, 1, height, width)  # slices are views
        slices = len(gemma.pan_and_scan_batched(image, 256, 4, 1.2))
        return (1, slices) if slices and width >= height else (slices, min(slices, 1))

    def ovis_grid(height: int, width: int) -> tuple[int, int]:
        return covering((height, width), 384, 12)[::-1]

    ovis = mc.get_spec("ovis2", crop_to_patches=True, compensated_sum=sys.version_info >= (3, 12))
    for label, spec, peer, grid in (
        ("InternVL3", "internvl3-8b", "get_optimal_tiled_canvas", lambda h, w: tiles((h, w), (448, 448), 1, 12)[::-1]),
        ("Granite Docling", "granite_docling", "get_tile_grid", docling.get_tile_grid),
        ("LLaVA-OneVision", llava, "select_best_resolution", llava_grid),
        ("Idefics3", "idefics3", "get_number_of_image_patches", idefics_grid),
        ("MiniCPM-V 4.6", "minicpmv4_6", "get_sliced_grid", lambda h, w: minicpm.get_sliced_grid((h, w), 9, 448)),
        ("Ovis2", ovis, "get_min_tile_covering_grid", ovis_grid),
        ("Perception LM", "perception_lm", "_fit_image_to_canvas", perception_grid),
        ("Gemma 3", mc.get_spec("gemma3", do_pan_and_scan=True), "pan_and_scan_batched", gemma_grid),
        ("Step3-VL", "step3p7", "_plan_patches", lambda h, w: step._plan_patches(w, h, 728, step.patch_size)[4:2:-1]),
        ("Idefics2", "idefics2", "", None),
    ):
        yield policy_case(label, mc.get_spec(spec) if isinstance(spec, str) else spec, peer, grid)


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
