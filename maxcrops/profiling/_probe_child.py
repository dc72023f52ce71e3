"""What the process of one point does: builds the model, runs it, and reads the clock and the memory."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

import numpy as np

from maxcrops.exceptions import UnsupportedError
from maxcrops.planning.dryrun import _engine, _models
from maxcrops.planning.dryrun._inputs import configured, make_inputs
from maxcrops.planning.dryrun._request import RunRequest
from maxcrops.profiling._torchvision import declare_missing
from maxcrops.profiling.batch_search import Label

Taken: TypeAlias = dict[str, Any]
"""What was measured so far, by the names of a row's columns."""


@dataclass(frozen=True, kw_only=True)
class PointRequest:
    """One point of a probe."""

    run: RunRequest
    device: str
    """As torch names it."""
    weights: str | None = None
    """A folder with weights; None: random ones."""
    files: tuple[str, ...] = ()
    """The images of a sample, where they are files."""
    memory_limit: int | None = None
    """Bytes beside what the imports take."""
    repeats: int = 5
    """Warm runs."""


Measure: TypeAlias = Callable[[PointRequest, Taken], None]
"""Runs a point and writes down what it measures; what is there when it raises is kept."""


def run_point(of: tuple[Measure, PointRequest]) -> tuple[Label, str, Taken]:
    """(label, message, what was measured) of one point; no error leaves it."""
    measure, request = of
    _end_with_parent()
    taken: Taken = {}
    try:
        measure(request, taken)
    except Exception as error:
        _lift_limit()
        return label_of(error), _first_line(error), taken
    _lift_limit()  # the answer needs memory too
    return "ok", "", taken


# -- labels --------------------------------------------------------------------------------------------------------

_OUT_OF_MEMORY = (
    "outofmemory",  # torch's class
    "out of memory",
    "can't allocate memory",  # torch's allocator on the CPU
    "cannot allocate memory",  # errno ENOMEM
    "failed to map segment",  # a library that is loaded
    "bad_alloc",
    "status_alloc_failed",  # cuBLAS and cuDNN
)
_LAUNCH_FAILURE = (
    "invalid configuration argument",  # cudaErrorInvalidConfiguration: a grid or block beyond the limits
    "too many resources requested for launch",
    "triton error [cuda]: invalid argument",  # the driver's word for the same
)
_FAULT = ("illegal memory access", "unspecified launch failure", "misaligned address", "device-side assert")


def label_of(error: BaseException) -> Label:
    """What a run that raised this failed of.

    A launch failure is a launch that was refused. A kernel that was launched and faulted crashed.
    """
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return "out_of_memory"
    if any(words in text for words in _LAUNCH_FAILURE):
        return "launch_failure"
    return "crashed" if any(words in text for words in _FAULT) else "error"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


# -- memory --------------------------------------------------------------------------------------------------------


class Memory(Protocol):
    """The memory of the device that a point runs on. Bytes."""

    capacity: int | None
    """What ``in_use`` may grow to; None where it is not known."""

    def in_use(self) -> int: ...
    def begin(self) -> None:
        """Begins to look for the peak."""

    def peaks(self) -> Mapping[str, int | None]:
        """Columns of a row: what was used at most since."""


class CpuMemory:
    """The process's beyond that of the imports: with a limit it is address space, otherwise resident pages."""

    def __init__(self, limit: int | None) -> None:
        self._counts = ("VmRSS", "VmHWM") if limit is None else ("VmSize", "VmPeak")
        self._base = _kilobytes("/proc/self/status", self._counts[0]) or 0
        if limit is None:
            self.capacity = _kilobytes("/proc/meminfo", "MemAvailable")
            return
        self.capacity = limit
        resource.setrlimit(resource.RLIMIT_AS, (self._base + limit, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def in_use(self) -> int:
        return (_kilobytes("/proc/self/status", self._counts[0]) or 0) - self._base

    def begin(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS

    def peaks(self) -> Mapping[str, int | None]:
        used = _kilobytes("/proc/self/status", self._counts[1])
        # ru_maxrss would be the parent's where that was larger: it survives exec.
        return {
            "peak_rss_bytes": _kilobytes("/proc/self/status", "VmHWM"),
            "used_bytes": None if used is None else used - self._base,
        }


class CudaMemory:
    """A device's, as PyTorch's caching allocator counts it."""

    def __init__(self, limit: int | None, device: str) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._device = device
        torch.cuda.set_device(device)  # kernels of Triton are launched on the current one
        free, total = torch.cuda.mem_get_info(device)  # makes the context, which is no longer free then
        self.capacity: int | None = free if limit is None else min(free, limit)
        if limit is not None:
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)

    def in_use(self) -> int:
        self._cuda.synchronize(self._device)
        return int(self._cuda.memory_allocated(self._device))

    def begin(self) -> None:
        self._cuda.synchronize(self._device)
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> Mapping[str, int | None]:
        allocated = self._cuda.max_memory_allocated(self._device)
        return {
            "allocated_bytes": allocated,
            "reserved_bytes": self._cuda.max_memory_reserved(self._device),
            "used_bytes": allocated,
        }


def _kilobytes(file: str, name: str) -> int | None:
    """Bytes of a line such as ``VmPeak:  1234 kB``; None where the system has no such file."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _lift_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _end_with_parent() -> None:
    """Has Linux kill this process with the thread that started it: a run that hangs would outlive it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))


# -- the run -------------------------------------------------------------------------------------------------------


class _Real:
    """Stands in for a Hybrid: pixels that are too many to be copied are made on the device."""

    def __init__(self, device: str) -> None:
        self._device = device

    def fake(self, tensor: Any) -> Any:
        import torch

        return torch.ones_like(tensor, device=self._device)


def measure(request: PointRequest, taken: Taken) -> None:
    """Builds the model, runs it once cold and `repeats` times warm."""
    import torch

    with contextlib.suppress(ImportError):  # a model that needs torchvision will say so itself
        declare_missing()
    run, training = request.run, request.run.mode == "train"
    taken["preprocess_seconds"] = preprocess_seconds(request)
    config = configured(run.config, run.spec, run.point)
    _models.import_class(config)
    memory = _memory_of(request)
    taken["capacity_bytes"] = memory.capacity
    model = _models.build_real(
        config, dtype=run.dtype, attention=run.attention, device=request.device, weights=request.weights
    )
    optimizer = None
    if training:
        _models.set_trainable(model, run.trainable)
        if run.gradient_checkpointing:
            _models.enable_checkpointing(model)
        if run.optimizer != "none":
            optimizer = _engine.make_optimizer(model, run.optimizer)
    taken["fixed_bytes"] = memory.in_use() + (_grown_in_training(model, optimizer) if training else 0)
    made = make_inputs(
        config["model_type"],
        _models.image_token_id(model),
        run.spec,
        run.point,
        _Real(request.device),
        labels=training,
    )
    inputs = {name: tensor.to(request.device) for name, tensor in made.items()}
    tokens = inputs["input_ids"].numel()
    nobody: Any = SimpleNamespace(mark=lambda *_: None)
    step: Callable[[], object]
    if training:
        step = partial(_engine.train, model, inputs, optimizer, nobody)
    elif run.mode == "generate":
        step = partial(_generate, model, inputs, run.point.new_tokens, nobody)
        tokens += len(inputs["input_ids"]) * run.point.new_tokens
    else:
        step = partial(_engine.prefill, model, inputs, nobody)

    def seconds() -> float:
        started = time.perf_counter()
        step()
        if request.device != "cpu":
            torch.cuda.synchronize(request.device)
        return time.perf_counter() - started

    memory.begin()
    taken["first_seconds"] = seconds()
    warm = [seconds() for _ in range(request.repeats)]
    taken.update(memory.peaks())
    for name, part in (("warm_seconds_p20", 0.2), ("warm_seconds", 0.5), ("warm_seconds_p80", 0.8)):
        taken[name] = float(np.quantile(warm, part))
    taken["tokens_per_second"] = tokens / taken["warm_seconds"]


def preprocess_seconds(request: PointRequest) -> float | None:
    """What a Preprocessor takes for the batch's images, decoding of files included; None where it makes no such pixels.

    Sample by sample, on the threads that it takes by itself.
    """
    from maxcrops.preprocess import Preprocessor

    point = request.run.point
    try:
        preprocess = Preprocessor(request.run.spec, max_crops=point.max_crops)
    except UnsupportedError:
        return None
    images: list[Any] = list(request.files) or [np.zeros((*size, 3), np.uint8) for size in point.sizes]
    started = time.perf_counter()
    for _ in range(point.batch_size):
        preprocess(images)
    return time.perf_counter() - started


def _memory_of(request: PointRequest) -> Memory:
    if request.device != "cpu":
        return CudaMemory(request.memory_limit, request.device)
    import torch

    # Threads have their stacks and heaps, and libraries their buffers, from their first product on.
    square = torch.ones(512, 512)
    square.matmul(square)
    return CpuMemory(request.memory_limit)


def _grown_in_training(model: Any, optimizer: Any) -> int:
    """Bytes of gradients, and of AdamW's two moments."""
    trained: int = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return trained * (1 if optimizer is None else 3)


def _generate(model: Any, inputs: Mapping[str, Any], new_tokens: int, nobody: Any) -> None:
    """A prefill and every step after it; the dry run's leaves out those between the first and the last."""
    import torch

    cache = _engine.prefill(model, inputs, nobody).past_key_values
    mask = inputs["attention_mask"]
    token = torch.ones_like(inputs["input_ids"][:, :1])
    for _ in range(new_tokens):
        mask = torch.cat((mask, mask[:, :1]), dim=1)
        with torch.no_grad():
            model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)


def find_device(device: str) -> tuple[str, str, int | None, tuple[int, int] | None]:
    """(as torch names it, name, bytes, compute capability) of a device; "auto": the GPU where there is one.

    Raises:
        UnsupportedError: torch sees no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device, "CPU", None, None
    try:
        found = torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UnsupportedError(f"[probe] device must be one that torch sees, got {device!r}: {error}") from error
    # Some functions of torch.cuda take no device without its number.
    return f"cuda:{torch.device(device).index or 0}", found.name, found.total_memory, (found.major, found.minor)
