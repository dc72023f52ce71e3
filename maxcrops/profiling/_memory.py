"""The memory of the device that a process runs a model on: a limit on it, and its peak."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


def memory_of(device: str, limit: int | None) -> Memory:
    """Of a device as torch names it; to be called when the imports are done.

    Args:
        device: "cpu" or a GPU.
        limit: bytes beside what is in use already; None: what is free.
    """
    if device != "cpu":
        return CudaMemory(limit, device)
    import torch

    # Threads have their stacks and heaps, and libraries their buffers, from their first product on.
    square = torch.ones(512, 512)
    square.matmul(square)
    return CpuMemory(limit)


class Memory(Protocol):
    """The memory of the device that a point runs on. Bytes."""

    capacity: int | None
    """What ``in_use`` may grow to; None where it is not known."""

    def enforce(self) -> None:
        """Sets the limit, from here on."""

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
        self._limit = limit
        self.capacity = _kilobytes("/proc/meminfo", "MemAvailable") if limit is None else limit

    def enforce(self) -> None:
        if self._limit is not None:
            ceiling = self._base + self._limit
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, resource.getrlimit(resource.RLIMIT_AS)[1]))

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
        self._fraction = None if limit is None else min(1.0, limit / total)

    def enforce(self) -> None:
        if self._fraction is not None:
            self._cuda.set_per_process_memory_fraction(self._fraction, self._device)

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


def lift_limit() -> None:
    """Takes back what ``enforce`` set on the CPU: an answer needs memory too."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
