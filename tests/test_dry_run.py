"""The public dry run, and the plan that it joins: in a child process, on models of real size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import maxcrops as mc
from maxcrops.planning.dryrun import DryRuns, _dry_run, list_configs

pytest.importorskip("torch")
pytest.importorskip("transformers")

MOLMO = mc.get_spec("molmo-7b-d")
SMOLVLM = mc.get_spec("smolvlm-instruct")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAXCROPS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def smolvlm(cache: Path) -> mc.DryRun:
    return mc.dry_run("smolvlm-instruct", SMOLVLM, text_tokens=100, device="l4")


def test_what_a_run_says(smolvlm: mc.DryRun) -> None:
    assert sum(smolvlm.peak_by_category.values()) == smolvlm.peak_bytes
    assert smolvlm.peak_by_category["weights"] == pytest.approx(2.246e9 * 2, rel=0.01)
    assert smolvlm.peak_bytes <= smolvlm.smallest_bytes <= smolvlm.reserved_bytes + 2**30
    assert smolvlm.sequence_length == mc.worst_case(SMOLVLM).tokens + 100
    assert set(smolvlm.flops) == {"vision", "connector", "language_model"}
    assert smolvlm.latency_ms is not None
    assert smolvlm.fits
    assert smolvlm.launches == ()
    assert "not yet validated on a GPU" in repr(smolvlm)
    json.dumps(smolvlm.to_dict())


def test_a_second_answer_comes_from_the_cache(smolvlm: mc.DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was run again")

    monkeypatch.setattr(_dry_run.WorkerPool, "run", refuse)
    assert mc.dry_run("smolvlm-instruct", SMOLVLM, text_tokens=100, device="l4") == smolvlm


@pytest.mark.parametrize(("max_crops", "passes"), [(6, True), (7, False)])
def test_molmo_s_adapter_cannot_be_launched_for_64_images_of_8_crops(max_crops: int, passes: bool) -> None:
    """64 x 8 crops (the global one included) x 144 features exceed 65535 blocks where flash attention lays them."""
    run = mc.dry_run("molmo-7b-d", MOLMO, batch_size=64, max_crops=max_crops, device="a100-80gb")
    assert run.num_crops == max_crops + 1
    problems = [launch for launch in run.launches if launch.module.endswith("image_pooling_2d")]
    assert bool(problems) != passes
    for launch in problems:
        assert (launch.size, launch.limit, launch.effect) == (64 * 8 * 144, 65535, "error")


def test_plan_joins_the_limits() -> None:
    plan = mc.plan(MOLMO, model="molmo-7b-d", device_memory="h200", batch_size=64, max_crops=7, max_crops_list=[6, 7])
    assert plan.largest_max_crops == 6
    assert not plan.fits
    by_limit = {use.limit: use for use in plan.row.uses}
    assert by_limit["launch"].verdict == "over"
    assert by_limit["memory"].evidence == "dry run"
    assert by_limit["sequence"].evidence == "exact"
    tight = mc.plan(SMOLVLM, model="smolvlm-instruct", device_memory="4GiB", text_tokens=100, max_crops_list=[16])
    assert tight.largest_max_crops is None
    assert tight.binding.limit == "memory"
    assert tight.frontier[16].batch_size == 0
    assert plan.frontier[6].batch_size == 64
    assert (plan.frontier[7].batch_size, plan.frontier[7].binding) == (56, "launch")
    json.dumps(plan.to_dict())


def test_command_line(tmp_path: Path, smolvlm: mc.DryRun) -> None:
    command = [sys.executable, "-m", "maxcrops", "plan", "smolvlm-instruct", "--device", "l4", "--text-tokens", "100"]
    # Elsewhere than in the clone, whose folder of the same name holds no extension.
    done = subprocess.run([*command, "-n", "16"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not yet validated on a GPU" in done.stdout
    assert re.search(r"needs GiB", done.stdout)
    words = " ".join(done.stdout.split())
    assert "chosen by torch 2.13 with cuDNN 9.20.0 on compute capability 8.9: flash." in words


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        ("molmo-7b-e", {}, mc.UnknownSpecError, "molmo-7b-d"),
        ("smolvlm-instruct", {"mode": "infer"}, ValueError, "mode must be one of prefill, generate, train"),
        ("smolvlm-instruct", {"dtype": "int8"}, ValueError, "dtype must be one of"),
        ("smolvlm-instruct", {"device": "h1000"}, ValueError, "h100"),
        ("smolvlm-instruct", {"device": "0GB"}, ValueError, "memory"),
        ({"model_type": "resnet"}, {}, mc.MaxCropsError, "resnet"),
        ({"model_type": "qwen9_vl"}, {}, mc.MaxCropsError, "qwen9_vl"),
        ({"hidden_size": 3}, {}, mc.ConfigError, "model_type"),
        (3, {}, TypeError, "model must be"),
    ],
)
def test_clear_errors(model: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mc.dry_run(model, SMOLVLM, **settings)


def test_tables_and_frontiers_equal_single_runs(smolvlm: mc.DryRun) -> None:
    memory = smolvlm.needed_bytes + 2**30
    steps: list[tuple[int, int]] = []
    with DryRuns("smolvlm-instruct", SMOLVLM, text_tokens=100, device=memory) as runs:
        table = runs.table(range(1, 10), [1, 2, 3, 5, 8], on_progress=lambda *step: steps.append(step))
        assert len(table) == 45
        fitted = {pair for pair, run in table.items() if run.evidence == "fit of dry runs"}
        assert len(fitted) >= 25
        assert steps[-1][0] == steps[-1][1]
        for value, batch in [(4, 5), (8, 3), (2, 2)]:
            run = runs.at(batch_size=batch, max_crops=value)
            assert run.evidence == "dry run"
            assert replace(table[value, batch], evidence="dry run", latency_ms=None) == replace(run, latency_ms=None)
        frontier = runs.frontier([2, 9], most=16)
        for value, largest in frontier.items():
            assert largest.run is not None
            assert largest.run.fits
            assert largest.run.batch_size == largest.batch_size
            if largest.batch_size < 16:
                assert largest.binding == "memory"
                assert not runs.at(batch_size=largest.batch_size + 1, max_crops=value).fits
            else:
                assert largest.binding is None
        assert frontier[9].batch_size < frontier[2].batch_size
    with DryRuns("smolvlm-instruct", SMOLVLM, text_tokens=100, device="1GiB") as runs:
        (nothing,) = runs.frontier([3], most=16).values()
        assert (nothing.batch_size, nothing.binding, nothing.run) == (0, "memory", None)


def test_frontier_ends_at_a_launch() -> None:
    """57 samples of 8 crops of 144 features are more than 65535; so much memory is there for many."""
    with DryRuns("molmo-7b-d", MOLMO, device="h200") as runs:
        largest = runs.frontier([7], most=64)[7]
    assert (largest.batch_size, largest.binding) == (65535 // (8 * 144), "launch")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dry_run, "find_spec", lambda name: None)
    with pytest.raises(mc.UnsupportedError, match=r"pip install 'maxcrops\[transformers\]'"):
        mc.dry_run("smolvlm-instruct", SMOLVLM)


def test_a_run_that_takes_too_long_is_ended() -> None:
    with DryRuns("smolvlm-instruct", SMOLVLM, text_tokens=101, timeout=0.2) as runs:
        with pytest.raises(mc.DryRunError, match=r"more than 0.2 s"):
            runs.at(batch_size=1)
        for worker in runs._workers.workers:
            worker.timeout = 120
        assert runs.at(batch_size=1).fits  # a new child takes the next one


def test_a_child_that_dies_is_an_error() -> None:
    with DryRuns("smolvlm-instruct", SMOLVLM, text_tokens=102) as runs:
        for worker in runs._workers.workers:
            worker._start().kill()
        with pytest.raises(mc.DryRunError, match="ended with status -9"):
            runs.at(batch_size=1)


def test_shipped_configs_are_those_of_specs() -> None:
    assert {"molmo-7b-d", "molmo2-4b", "molmo2-8b", "internvl3-8b", "llava-v1.6-mistral-7b", "idefics3-8b-llama3",
            "smolvlm-instruct"} <= set(list_configs())  # fmt: skip
    assert set(list_configs()) <= set(mc.list_specs())
