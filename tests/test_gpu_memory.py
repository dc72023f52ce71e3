"""The comparison with a GPU, as far as it goes without one: made-up measurements, and real runs on the CPU."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dry_run_models import MODELS

import maxcrops as mc
from maxcrops.planning.dryrun import _engine, _models, get_config, list_configs
from maxcrops.planning.dryrun._hybrid import Hybrid
from maxcrops.planning.dryrun._inputs import configured
from maxcrops.planning.dryrun._request import RunRequest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setenv("MAXCROPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture
def gpu_memory() -> Any:
    import gpu_memory

    return gpu_memory


def request(name: str = "smolvlm", **changes: Any) -> RunRequest:
    small = MODELS[name]
    assert small.spec is not None
    return RunRequest(config=small.config, spec=small.spec, point=small.point(1), **changes)


class Counter:
    """Memory of a device that has none to count."""

    def __init__(self, left: int = 0) -> None:
        self.left = left
        self.calls: list[str] = []

    def empty(self) -> int:
        self.calls.append("empty")
        return self.left if len(self.calls) == 1 else 1 << 20

    def used(self) -> tuple[int, int, int]:
        self.calls.append("used")
        return 3 << 20, 4 << 20, 5 << 20


# -- points and predictions ------------------------------------------------------------------------------------------


def test_points_are_of_shipped_models_and_differ(gpu_memory: Any) -> None:
    cases = list(gpu_memory._cases())
    names = [(case.name, case.size) for case in cases]
    assert len(set(names)) == len(names)
    assert {case.model for case in cases} <= set(list_configs())
    assert 4 <= sum(case.quick for case in cases) <= 8


@pytest.mark.parametrize(
    "name", ["molmo-7b-d", "molmo2-8b", "internvl3-8b", "llava-v1.6-mistral-7b", "smolvlm-instruct"]
)
def test_few_layers_leave_the_width(gpu_memory: Any, name: str) -> None:
    asked = gpu_memory.request_of(gpu_memory.Case(name), gpu_memory.Gpu.named("h100"))
    whole, few = (
        _models.build(configured(config, asked.spec, asked.point), dtype="bfloat16", attention="sdpa", hybrid=Hybrid())
        for config in (get_config(name), asked.config)
    )
    layers = {len(module) for module in few.modules() if isinstance(module, torch.nn.ModuleList)}
    assert {gpu_memory.TEXT_LAYERS, gpu_memory.VISION_LAYERS} <= layers
    sizes = dict(whole.named_parameters())
    assert all(parameter.shape == sizes[path].shape for path, parameter in few.named_parameters())


def test_a_prediction_is_that_of_dry_run(gpu_memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory.Worker, "run", lambda _, run, asked: _engine.observe(asked))  # in this process
    gpu = gpu_memory.Gpu.named("a100-80gb")
    asked = gpu_memory.request_of(gpu_memory.Case("smolvlm-instruct", 1), gpu)
    predicted, needed = gpu_memory.predict(_engine.observe(asked))
    run = mc.dry_run(
        asked.config, asked.spec, max_crops=1, device="a100-80gb", torch_version=torch.__version__, mode="prefill"
    )
    assert (predicted.allocated, predicted.reserved) == (run.peak_bytes, run.reserved_bytes)
    assert (needed, predicted.kernels) == (run.needed_bytes, tuple(sorted(run.attention_kernels)))


# -- measuring, on the CPU -------------------------------------------------------------------------------------------


PREFILL: dict[str, Any] = {}
CHECKPOINTING = {"mode": "train", "gradient_checkpointing": True}
FROZEN_VISION = {"mode": "train", "trainable": "frozen_vision", "optimizer": "adamw_fused"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, PREFILL) for name, small in MODELS.items() if small.spec is not None),
        ("molmo2", CHECKPOINTING),
        ("internvl", FROZEN_VISION),
    ],
)
def test_it_runs(gpu_memory: Any, name: str, how: dict[str, Any]) -> None:
    counter = Counter()
    use = gpu_memory.measure(request(name, dtype="float32", **how), counter, "cpu")
    assert use == gpu_memory.Use(3 << 20, 4 << 20, 5 << 20, kernels=use.kernels)
    assert counter.calls == ["empty", "empty", "used"]


def test_kernels_are_those_that_ran(gpu_memory: Any) -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert gpu_memory.measure(request(dtype="float32"), Counter(), "cpu").kernels == ("math",)


def test_what_is_measured_is_what_is_predicted(gpu_memory: Any) -> None:
    """Weights as many, inputs as large, on both sides."""
    small = request()
    seen: dict[str, int] = {}

    def prefill(model: Any, inputs: Any, observer: Any) -> None:
        seen["weights"] = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
        seen["inputs"] = sum(t.numel() * t.element_size() for t in inputs.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "prefill", prefill)
        assert gpu_memory.measure(small, Counter(), "cpu").error == ""
    log = _engine.observe(small)
    of_inputs = log.operator == log.operators.index("inputs")
    of_weights = log.operator == log.operators.index("weights")
    assert seen == {"weights": log.num_bytes[of_weights].sum(), "inputs": log.num_bytes[of_inputs].sum()}


def test_failures_are_results(gpu_memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: invalid configuration argument\nmore")

    monkeypatch.setattr(_engine, "prefill", fail)
    use = gpu_memory.measure(request(), Counter(), "cpu")
    assert use.error == "RuntimeError: CUDA error: invalid configuration argument"
    assert "512 bytes of an earlier point" in gpu_memory.measure(request(), Counter(left=512), "cpu").error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it would not fail")
def test_a_failure_ends_the_process(gpu_memory: Any) -> None:
    child = gpu_memory.Child()
    first = child.call(os.getpid)
    assert child.call(os.getpid) == first != os.getpid()
    assert "CUDA" in child.measure(request(), alone=False).error
    assert child.call(os.getpid) != first
    child.close()


# -- comparison ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log() -> Any:
    return _engine.observe(request())


def rows(gpu_memory: Any, log: Any, *factors: float, **changes: Any) -> list[Any]:
    """A row for each factor: so many times the prediction is what was measured."""
    gpu = gpu_memory.Gpu.named("h100")
    predicted, _ = gpu_memory.predict(log)
    measured = iter(factors)

    def measure(_: RunRequest, alone: bool) -> Any:
        factor = next(measured)
        use = replace(predicted, **changes)
        return replace(use, allocated=round(use.allocated * factor), reserved=round(use.reserved * factor))

    cases = [gpu_memory.Case("smolvlm-instruct", crops) for crops in range(1, len(factors) + 1)]
    return list(gpu_memory.rows_of(cases, gpu, lambda _: log, measure))


@pytest.mark.parametrize(
    ("factors", "misses"),
    [
        ((1, 1), []),
        ((0.95, 0.97), []),
        ((1.015, 1), []),
        ((1.031, 1), ["may be 2.0% too low"] * 2),
        ((0.95, 0.95), ["mean error must be at most 4.35%"] * 2),
        ((0.9, 1), ["mean error must be at most 4.35%"] * 2),
    ],
)
def test_bars(gpu_memory: Any, log: Any, factors: tuple[float, ...], misses: list[str]) -> None:
    said, missed = gpu_memory.summary(rows(gpu_memory, log, *factors))
    assert len(said) == 3
    assert len(missed) == len(misses)
    assert all(words in line for words, line in zip(misses, missed, strict=True))


def test_errors_are_of_the_measurement(gpu_memory: Any, log: Any) -> None:
    low, high = rows(gpu_memory, log, 1.25, 0.8)
    assert low.error("allocated") == pytest.approx(-20, abs=1e-3)
    assert high.error("reserved") == pytest.approx(25, abs=1e-3)


def test_nothing_measured_is_a_miss(gpu_memory: Any) -> None:
    assert gpu_memory.summary([]) == ([], ["allocated: nothing was measured", "reserved: nothing was measured"])


@pytest.mark.parametrize(
    ("predicted", "measured", "verdict"),
    [
        ({}, {}, "ok"),
        ({}, {"error": "OutOfMemoryError: CUDA out of memory."}, "failed: OutOfMemoryError"),
        ({}, {"error": "RuntimeError: CUDA error: invalid configuration argument"}, "failed: RuntimeError"),
        ({"error": "flash"}, {"error": "RuntimeError: CUDA error: invalid configuration argument"}, "ok"),
        ({"error": "flash"}, {"error": "OutOfMemoryError: CUDA out of memory."}, "failed: OutOfMemoryError"),
        ({"error": "flash"}, {"error": "RuntimeError: on different devices"}, "failed: RuntimeError"),
        ({"error": "flash"}, {}, "failed: it ran, but"),
        ({"kernels": ("cudnn",)}, {"kernels": ("cudnn", "flash")}, "failed: cudnn flash ran"),
    ],
)
def test_verdicts(gpu_memory: Any, predicted: Any, measured: Any, verdict: str) -> None:
    assert gpu_memory.compare(gpu_memory.Use(**predicted), gpu_memory.Use(**measured)).startswith(verdict)


def test_what_does_not_fit_is_skipped_and_limits_come_last(gpu_memory: Any, log: Any) -> None:
    small = replace(gpu_memory.Gpu.named("h100"), memory_bytes=1 << 20)
    cases = [gpu_memory.Case("smolvlm-instruct", 1, at_limit=True), gpu_memory.Case("smolvlm-instruct", 2)]
    skipped = list(gpu_memory.rows_of(cases, small, lambda _: log, pytest.fail))
    assert [row.case for row in skipped] == [cases[1].name, cases[0].name]
    assert all(row.verdict.startswith("skipped: needs") for row in skipped)
    alone: list[bool] = []

    def measure(_: RunRequest, is_alone: bool) -> Any:
        alone.append(is_alone)
        return gpu_memory.predict(log)[0]

    list(gpu_memory.rows_of(cases, gpu_memory.Gpu.named("h100"), lambda _: log, measure))
    assert alone == [False, True]


def test_rows_are_written_with_their_machine(gpu_memory: Any, log: Any, tmp_path: Path) -> None:
    gpu_memory.write(tmp_path / "rows.csv", rows(gpu_memory, log, 1, 1.01), gpu_memory.Gpu.named("h100"))
    with (tmp_path / "rows.csv").open(encoding="utf-8") as handle:
        first, second = csv.DictReader(handle)
    assert float(first["allocated_error"]) == 0
    assert int(second["measured_allocated"]) > int(second["predicted_allocated"])
    assert first["gpu"] == "NVIDIA H100 SXM 80GB"
    assert first["torch"]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(gpu_memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_memory.main(["--quick"]) == 2
    assert "there is no CUDA GPU; --predict prints" in capsys.readouterr().err


def test_predictions_alone(
    gpu_memory: Any, log: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_memory.Worker, "run", lambda *_: log)
    before = list(gpu_memory.RESULTS.parent.iterdir())
    assert gpu_memory.main(["--predict", "--device", "a100-80gb"]) == 0
    out = capsys.readouterr().out
    assert "A100" in out
    assert all(case.name in out for case in gpu_memory._cases())
    assert list(gpu_memory.RESULTS.parent.iterdir()) == before
