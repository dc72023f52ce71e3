"""What a dry run predicts against what a GPU uses: memory, attention kernels, and launches that fail.

Run:  python benchmarks/gpu_memory.py               every point, some minutes; writes results/gpu_memory.csv
      python benchmarks/gpu_memory.py --quick       a few points, less than two minutes; writes nothing
      python benchmarks/gpu_memory.py --predict     the predictions alone; needs no GPU

Models have their full width, a few layers and random weights, so that activations are much of what is measured. Both
sides build them, make their inputs and run them by the same functions of maxcrops.planning.dryrun. A point begins as
the dry run models it: with an empty cache, weights laid into one segment as transformers does, and, in training, the
states that a first step leaves. The GPU must be nobody else's. Exits with 1 if a bar is missed, with 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maxcrops as mc
from maxcrops.planning.devices import get_device
from maxcrops.planning.dryrun import _engine, _models, get_config, list_configs
from maxcrops.planning.dryrun._allocator import peak, replay, smallest_capacity
from maxcrops.planning.dryrun._attention import _OPERATORS, bundled_cudnn
from maxcrops.planning.dryrun._cuda import platform_of
from maxcrops.planning.dryrun._dry_run import CONTEXT_BYTES
from maxcrops.planning.dryrun._events import EventLog
from maxcrops.planning.dryrun._inputs import configured, make_inputs
from maxcrops.planning.dryrun._request import Mode, Optimizer, Point, RunRequest, Trainable
from maxcrops.planning.dryrun._worker import Worker
from maxcrops.profiling._torchvision import declare_missing
from maxcrops.profiling.harness import environment

RESULTS = Path(__file__).parent / "results" / "gpu_memory.csv"
MOST_MEAN_ERROR = 4.35  # percent, of the errors' sizes
MOST_UNDER = 2.0  # percent, of any prediction below what was measured
QUANTITIES = ("allocated", "reserved")
TEXT_LAYERS, VISION_LAYERS = 4, 6
LAUNCH_FAILURES = ("invalid configuration argument", "illegal memory access", "cudnn")  # as CUDA and cuDNN put it
# They change what is measured, and the dry run does not know them.
UNSET = (
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED",
)

# -- points --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One point of one model: the worst image of max_crops, unless a size (height, width) is given."""

    model: str
    max_crops: int | None = None
    batch_size: int = 1
    mode: Mode = "prefill"
    optimizer: Optimizer = "adamw_foreach"
    gradient_checkpointing: bool = False
    trainable: Trainable = "all"
    size: tuple[int, int] | None = None
    quick: bool = False
    at_limit: bool = False
    """About the largest batch of a launch: it runs in a process of its own, after the others."""

    @property
    def name(self) -> str:
        crops = "" if self.max_crops is None else f" max_crops {self.max_crops}"
        how = f" {self.trainable} {self.optimizer}{' checkpointing' * self.gradient_checkpointing}"
        return f"{self.model}{crops} x {self.batch_size} {self.mode}{how if self.mode == 'train' else ''}"


def _cases() -> Iterator[Case]:
    eight, internvl, foreach, fused = "molmo2-8b", "internvl3-8b", "adamw_foreach", "adamw_fused"
    for batch in (1, 4):
        for crops in (1, 8, 24):
            yield Case(eight, crops, batch, quick=crops == 8)
        for model in ("molmo2-4b", "llava-v1.6-mistral-7b", "idefics3-8b-llama3", "smolvlm-instruct", "molmo-7b-d"):
            yield Case(model, None, batch)
        yield Case(internvl, None, batch, quick=batch == 4)
    for recompute in (False, True):
        yield Case(eight, 8, 2, "train", foreach, recompute, quick=recompute)
        yield Case(eight, 8, 2, "train", fused, recompute, quick=not recompute)
        yield Case(eight, 8, 2, "train", foreach, recompute, "frozen_vision")
        yield Case(internvl, None, 2, "train", foreach, recompute)
    yield Case(eight, 24, 4, "train", foreach, True, "connector")
    yield Case("smolvlm-instruct", None, 4, "train", fused)
    # The adapter attends once a connector output, of which these images have 2758 and 8 x 144: up to 65535 in a batch
    # can be launched with every kernel. The last one of each pair exceeds that.
    yield Case(eight, 24, 23, size=(1708, 1176), at_limit=True)
    yield Case(eight, 24, 24, size=(1708, 1176), at_limit=True, quick=True)
    yield Case("molmo-7b-d", 7, 56, at_limit=True)
    yield Case("molmo-7b-d", 7, 57, at_limit=True)


def shallow(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of the same width with few layers, as many of them giving the connector its features."""
    if config["model_type"] == "molmo":
        layers = {"num_hidden_layers": TEXT_LAYERS, "image_num_layers": VISION_LAYERS, "vit_layers": [-2, -6]}
        return {**config, **layers}
    reduced = {
        **config,
        "text_config": {**config["text_config"], "num_hidden_layers": TEXT_LAYERS},
        "vision_config": {**config["vision_config"], "num_hidden_layers": VISION_LAYERS},
    }
    if "adapter_config" in config:
        removed = config["vision_config"]["num_hidden_layers"] - VISION_LAYERS
        used = [max(0, layer - removed) for layer in config["adapter_config"]["vision_feature_layer"]]
        reduced["adapter_config"] = {**config["adapter_config"], "vision_feature_layer": used}
    return reduced


@dataclass(frozen=True)
class Gpu:
    """Where it runs, or is to run."""

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    torch_version: str
    cudnn_version: tuple[int, int, int] | None

    @classmethod
    def named(cls, name: str) -> Gpu:
        """One that need not be there, with the PyTorch that is."""
        device, version = get_device(name), metadata.version("torch")
        capability = device.compute_capability or (9, 0)
        return cls(device.name, device.memory_bytes, capability, version, bundled_cudnn(version))

    @classmethod
    def present(cls) -> Gpu:
        """This machine's first. Makes a CUDA context."""
        import torch

        found, cudnn = torch.cuda.get_device_properties(0), torch.backends.cudnn.version()
        version = (cudnn // 10000, cudnn // 100 % 100, cudnn % 100) if cudnn else None
        return cls(found.name, found.total_memory, (found.major, found.minor), torch.__version__, version)


def request_of(case: Case, gpu: Gpu) -> RunRequest:
    """What both sides are asked to run."""
    spec = mc.get_spec(case.model)
    size = case.size or mc.worst_case(spec, max_crops=case.max_crops).witness
    return RunRequest(
        config=shallow(get_config(case.model)),
        spec=spec,
        point=Point(batch_size=case.batch_size, sizes=(size,), max_crops=case.max_crops),
        mode=case.mode,
        trainable=case.trainable,
        gradient_checkpointing=case.gradient_checkpointing,
        optimizer=case.optimizer,
        compute_capability=gpu.compute_capability,
        torch_version=gpu.torch_version,
        cudnn_version=gpu.cudnn_version,
    )


@dataclass(frozen=True)
class Use:
    """What a run uses, predicted or measured: bytes as of torch.cuda.max_memory_allocated and _reserved, what the
    process takes beside, kernels of attention, and, of a run that fails, why."""

    allocated: int = 0
    reserved: int = 0
    context: int = CONTEXT_BYTES
    kernels: tuple[str, ...] = ()
    error: str = ""


def predict(log: EventLog) -> tuple[Use, int]:
    """As ``DryRun`` has it, and the least memory that a device must have."""
    errors = [f"{bad.kernel} {bad.dimension} {bad.size}" for bad in log.launches if bad.effect == "error"]
    use = Use(
        allocated=peak(log).bytes,
        reserved=replay(log).reserved_peak,
        kernels=tuple(sorted(log.attention_kernels)),
        error=errors[0] if errors else "",
    )
    return use, smallest_capacity(log) + CONTEXT_BYTES


# -- measurement ---------------------------------------------------------------------------------------------------


class CudaMemory:
    """A device's memory, as PyTorch's caching allocator counts it."""

    def empty(self) -> int:
        """Gives the device back what is not in use, and begins to count anew; returns the bytes in use."""
        import torch

        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def used(self) -> tuple[int, int, int]:
        """Bytes since: most allocated, most reserved, and what the process now takes beside."""
        import torch

        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        beside = total - free - torch.cuda.memory_reserved()
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), beside


class OnDevice:
    """Stands in for a Hybrid: what is fake there has memory on the device here."""

    def __init__(self, device: str) -> None:
        self.device = device

    def fake(self, tensor: Any) -> Any:
        """Small random numbers in the shape of a meta tensor."""
        import torch

        made = torch.empty_like(tensor, device=self.device, requires_grad=False)
        return made.normal_(std=0.02) if made.is_floating_point() else made.fill_(1)

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return func(*args, **kwargs)

    def tensors_in(self, *values: Any) -> list[Any]:
        """None that a log would be told of."""
        return []


def measure(request: RunRequest, memory: CudaMemory | None = None, device: str = "cuda") -> Use:
    """What a request uses for real; of one that fails, why."""
    with contextlib.suppress(ImportError):
        declare_missing()
    try:
        return _run(request, memory or CudaMemory(), OnDevice(device))
    except Exception as error:  # memory that is out and launches that fail are results
        return Use(error=f"{type(error).__name__}: {error}".splitlines()[0])


def _run(request: RunRequest, memory: CudaMemory, hybrid: Any) -> Use:
    """``_engine.observe``, with memory."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    # What Molmo's own code does.
    torch.backends.cuda.enable_mem_efficient_sdp("efficient" not in platform_of(request).disabled)
    training = request.mode == "train"
    if left := memory.empty():
        raise RuntimeError(f"{left} bytes of an earlier point are still in use")
    config = configured(request.config, request.spec, request.point)
    model: Any = _models.build(
        config,
        dtype=request.dtype,
        attention=request.attention,
        hybrid=OnDevice("meta"),  # type: ignore[arg-type]
    )
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    torch.empty(weights, dtype=torch.uint8, device=hybrid.device)  # caching_allocator_warmup of transformers
    _models._materialise(model, hybrid)
    model.to(hybrid.device)
    step = None
    if training:
        _models.set_trainable(model, request.trainable)
        if request.gradient_checkpointing:
            _models.enable_checkpointing(model)
        step = _engine.make_optimizer(model, request.optimizer)
        _engine.warm_states(step, hybrid, request.optimizer)
    image_token = _models.image_token_id(model)
    inputs = make_inputs(config["model_type"], image_token, request.spec, request.point, hybrid, labels=training)
    inputs = {name: tensor.to(hybrid.device) for name, tensor in inputs.items()}
    memory.empty()
    nobody: Any = SimpleNamespace(mark=lambda *_: None)
    # Of the CPU alone, names alone: CUPTI takes memory, and a dispatch mode changes how autograd adds up gradients.
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        if training:
            _engine.train(model, inputs, step, nobody)
        else:
            _engine.prefill(model, inputs, nobody)
        used = memory.used()
    names = {event.name() for event in profiler.profiler.kineto_results.events()}
    return Use(*used, kernels=tuple(sorted(kernel for kernel, name in _OPERATORS.items() if name in names)))


class Child:
    """A process that measures one point after the other, until one fails or must be alone."""

    _pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return self._pool.submit(function, *arguments).result()

    def measure(self, request: RunRequest, alone: bool) -> Use:
        if alone:
            self.close()
        try:
            use: Use = self.call(measure, request)
        except BrokenProcessPool:
            use = Use(error="the process ended")
        if use.error:  # what it leaves behind is not known
            self.close()
        return use

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


# -- comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One point, and what became of it."""

    case: str
    verdict: str
    """"ok", "predicted", "skipped: ..." or "failed: ..."."""
    predicted: Use = Use()
    measured: Use | None = None

    def error(self, quantity: str) -> float | None:
        """Percent by which the prediction is too high, or, negative, too low."""
        if self.measured is None or self.measured.error:
            return None
        return 100 * (getattr(self.predicted, quantity) / getattr(self.measured, quantity) - 1)


def compare(predicted: Use, measured: Use) -> str:
    """The verdict on all but the amounts of memory, for which there are bars."""
    if measured.error:
        as_predicted = predicted.error and any(words in measured.error.lower() for words in LAUNCH_FAILURES)
        return "ok" if as_predicted else f"failed: {measured.error}"
    if predicted.error:
        return f"failed: it ran, but this launch was to fail: {predicted.error}"
    return "ok" if measured.kernels == predicted.kernels else f"failed: {' '.join(measured.kernels)} ran"


def rows_of(
    cases: Iterable[Case],
    gpu: Gpu,
    observe: Callable[[RunRequest], EventLog],
    measure: Callable[[RunRequest, bool], Use] | None,
) -> Iterator[Row]:
    """A row a case; those at a launch's limit come last.

    Args:
        cases: what to run.
        gpu: where.
        observe: gives a dry run's log.
        measure: takes a request, and whether it must be alone in its process; None: nothing is measured.
    """
    for case in sorted(cases, key=lambda case: case.at_limit):
        try:
            request = request_of(case, gpu)
            predicted, needed = predict(observe(request))
        except mc.MaxCropsError as error:
            yield Row(case.name, f"failed: {error}")
            continue
        if needed > gpu.memory_bytes:
            yield Row(case.name, f"skipped: needs {needed / 2**30:.1f} GiB", predicted)
        elif measure is None:
            yield Row(case.name, "predicted", predicted)
        else:
            measured = measure(request, case.at_limit)
            yield Row(case.name, compare(predicted, measured), predicted, measured)


def summary(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What the errors are, and which bars are missed."""
    said, missed = [], [f"{row.case}: {row.verdict}" for row in rows if row.verdict.startswith("failed")]
    for quantity in QUANTITIES:
        errors = [(error, row.case) for row in rows if (error := row.error(quantity)) is not None]
        if not errors:
            missed.append(f"{quantity}: nothing was measured")
            continue
        mean = sum(abs(error) for error, _ in errors) / len(errors)
        lowest, case = min(errors)
        said.append(f"{quantity}: mean error {mean:.2f}% of {len(errors)} points; lowest {lowest:+.2f}%, {case}")
        if mean > MOST_MEAN_ERROR:
            missed.append(f"{quantity}: the mean error must be at most {MOST_MEAN_ERROR}%, got {mean:.2f}%")
        if lowest < -MOST_UNDER:
            missed.append(f"{quantity}: a prediction may be {MOST_UNDER}% too low, got {lowest:+.2f}% of {case}")
    contexts = [row.measured.context for row in rows if row.measured is not None and not row.measured.error]
    if contexts:
        said.append(f"beside the allocator: at most {max(contexts) >> 20} MiB, where {CONTEXT_BYTES >> 20} are assumed")
    return said, missed


# -- output --------------------------------------------------------------------------------------------------------


def line(row: Row) -> str:
    """Of the table."""

    def gib(use: Use | None, quantity: str) -> str:
        value = getattr(use, quantity, 0)
        return f"{value / 2**30:>7.2f}" if value else " " * 7

    numbers = ""
    for quantity in QUANTITIES:
        error = row.error(quantity)
        percent = "" if error is None else f"{error:+.2f}%"
        numbers += f"{gib(row.predicted, quantity)} {gib(row.measured, quantity)} {percent:>8} "
    remark = row.verdict if ":" in row.verdict else ""
    words = (" ".join(row.predicted.kernels), row.predicted.error and f"cannot launch {row.predicted.error}", remark)
    return f"{row.case:<64}{numbers} {'; '.join(filter(None, words))}"


def write(path: Path, rows: Sequence[Row], gpu: Gpu) -> None:
    """A line per row, with the machine's columns behind each."""
    cudnn = ".".join(map(str, gpu.cudnn_version or ()))
    machine = {"gpu": gpu.name, "gpu_bytes": gpu.memory_bytes, "cudnn": cudnn, **environment(Path(__file__).parent)}
    machine["torch"] = gpu.torch_version  # with its CUDA's, which the package's metadata may lack
    lines = []
    for row in rows:
        line = {"case": row.case, "verdict": row.verdict, **{f"{name}_error": row.error(name) for name in QUANTITIES}}
        for side, use in (("predicted", row.predicted), ("measured", row.measured or Use(context=0))):
            line |= {f"{side}_{name}": value for name, value in asdict(use).items()}
            line[f"{side}_kernels"] = " ".join(use.kernels)
        lines.append({**line, **machine})
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a dry run predicts against what a GPU uses.")
    parser.add_argument("--predict", action="store_true", help="print the predictions alone; needs no GPU")
    parser.add_argument("--device", default="h100", help="GPU of --predict, by name (default: h100)")
    parser.add_argument("--quick", action="store_true", help="a few points, less than two minutes; writes nothing")
    parser.add_argument("--models", nargs="+", choices=list_configs(), default=list_configs(), help="writes nothing")
    parser.add_argument("--output", type=Path, help=f"CSV file (of a run of every point: results/{RESULTS.name})")
    chosen = parser.parse_args(arguments)
    import torch

    if not chosen.predict and not torch.cuda.is_available():
        print("gpu_memory: there is no CUDA GPU; --predict prints the predictions alone", file=sys.stderr)
        return 2
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "KINETO_LOG_LEVEL": "99"}  # nothing is fetched, and profilers keep silent
    every = list(_cases())
    cases = [case for case in every if case.model in chosen.models and case.quick >= chosen.quick]
    output = chosen.output or (RESULTS if cases == every else None)
    rows = []
    with Worker() as worker, contextlib.closing(Child()) as child:
        gpu = Gpu.named(chosen.device) if chosen.predict else child.call(Gpu.present)
        print(gpu)
        print(f"{'GiB predicted, measured, error':<64}{'allocated':^24} {'reserved':^24} kernels", flush=True)
        for row in rows_of(
            cases, gpu, partial(worker.run, _engine.observe_in_child), None if chosen.predict else child.measure
        ):
            rows.append(row)
            print(line(row), flush=True)
    if chosen.predict:
        return int(any(row.verdict.startswith("failed") for row in rows))
    said, missed = summary(rows)
    print("\n".join(said))
    if output is not None:
        write(output, rows, gpu)
        print(f"wrote {output.name}", file=sys.stderr)
    for words in missed:
        print(f"MISSED {words}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
