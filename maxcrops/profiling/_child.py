"""Both ends of a call to a process that runs a real model: how it ended is a label, and where it runs is a Place."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from maxcrops.exceptions import UnsupportedError
from maxcrops.planning.devices import Device
from maxcrops.planning.dryrun._worker import Worker, WorkerEndedError, WorkerTimeoutError
from maxcrops.profiling._memory import lift_limit
from maxcrops.profiling.batch_search import Label

Taken: TypeAlias = dict[str, Any]
"""What was measured so far, by the names of a row's columns."""

_Request = TypeVar("_Request")
Measure: TypeAlias = Callable[[_Request, Taken], None]
"""Does what is asked and writes down what it measures; what is there when it raises is kept."""


def call(worker: Worker, measure: Measure[_Request], request: _Request) -> tuple[Label, str, Taken]:
    """(label, message, what was measured) of `measure`, of a module's own, in the worker's process.

    Whatever happens there is a label. After a timeout or a crash the worker has no process any more, and the next call
    would start another.
    """
    try:
        return worker.run(_labelled, (measure, request))
    except WorkerTimeoutError:
        return "timeout", f"it took more than {worker.timeout:g} s", {}
    except WorkerEndedError as error:
        # Memory that is out where nobody catches it, in a thread of a library, aborts the process.
        if "bad_alloc" in error.last_message:
            return "out_of_memory", error.last_message, {}
        return "crashed", f"{_status_text(error.status)}: {error.last_message}", {}


def _labelled(of: tuple[Measure[Any], Any]) -> tuple[Label, str, Taken]:
    """The child's end; no error leaves it."""
    measure, request = of
    _end_with_parent()
    taken: Taken = {}
    try:
        measure(request, taken)
    except Exception as error:
        lift_limit()
        return label_of(error), _first_line(error), taken
    lift_limit()
    return "ok", "", taken


def _end_with_parent() -> None:
    """Has Linux kill this process with the thread that started it: a run that hangs would outlive it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))


def _status_text(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    known = {number.value: number.name for number in signal.Signals}
    killed = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
    return f"its process was ended by {known.get(-status, f'signal {-status}')}{killed}"


# -- labels ----------------------------------------------------------------------------------------------------------

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


# -- devices ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A device, as its process found it."""

    device: str
    """As torch names it."""
    name: str
    memory_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None

    def as_device(self, limit: int | None = None) -> Device:
        """A GPU as a dry run is told of it, of which at most `limit` bytes are taken."""
        assert self.memory_bytes is not None, "a dry run models GPUs alone"
        return Device(
            key="this",
            name=self.name,
            memory_bytes=min(self.memory_bytes, limit or self.memory_bytes),
            compute_capability=self.compute_capability,
        )


def find_place(device: str, *, timeout: float, operation: str) -> Place:
    """Where a device of that name ("auto", "cpu", "cuda", "cuda:1") is; no CUDA context is made in this process.

    Raises:
        UnsupportedError: torch sees no such device.
        DryRunError: the process that asks torch crashed, or took longer than `timeout` seconds.
    """
    if device == "cpu":
        return Place("cpu", "CPU")
    with Worker(timeout=timeout, operation=operation) as worker:
        return Place(*worker.run(partial(find_device, operation=operation), device))


def find_device(device: str, *, operation: str) -> tuple[str, str, int | None, tuple[int, int] | None]:
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
        raise UnsupportedError(f"[{operation}] device must be one that torch sees, got {device!r}: {error}") from error
    # Some functions of torch.cuda take no device without its number.
    return f"cuda:{torch.device(device).index or 0}", found.name, found.total_memory, (found.major, found.minor)
