"""What a log says of a run: its peak, what the caching allocator makes of it, its arithmetic and its launches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxcrops.planning.dryrun._allocator import peak, replay, smallest_capacity
from maxcrops.planning.dryrun._events import Category, EventLog
from maxcrops.planning.dryrun._launch import Launch, Phase


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The numbers of one log; no device's rates or memory are in them. Bytes unless a name says otherwise."""

    peak_bytes: int
    """Most memory in use at once, as ``torch.cuda.max_memory_allocated``."""
    peak_by_category: Mapping[Category, int]
    """What it consists of: weights, gradients, optimizer, kv_cache, activations, temporaries."""
    peak_operator: str
    peak_module: str
    """Path of the module that ran at the peak."""
    peak_phase: Phase
    reserved_bytes: int
    """Most memory that the caching allocator would take from a device without limit."""
    smallest_bytes: int
    """The least memory that the simulated allocator survives."""
    smallest_bytes_expandable: int
    """The same with ``expandable_segments:True``."""

    flops: Mapping[str, int]
    """By part of the model; a multiply and an add are two."""
    traffic_bytes: Mapping[str, int]
    """What operators read and write, by part of the model."""
    num_operators: int
    launches: tuple[Launch, ...]
    """Those that break a limit of CUDA."""
    attention_kernels: tuple[str, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """From its fields as JSON keeps them: tuples are lists there."""
        return cls(
            **{
                **values,
                "launches": tuple(
                    Launch(**{**launch, "shape": tuple(launch["shape"])}) for launch in values["launches"]
                ),
                "attention_kernels": tuple(values["attention_kernels"]),
            }
        )


def read(log: EventLog) -> Reading:
    """Replays a log through the simulated allocator, some tenths of a second."""
    most = peak(log)
    return Reading(
        peak_bytes=most.bytes,
        peak_by_category=most.by_category,
        peak_operator=most.operator,
        peak_module=most.module,
        peak_phase=most.phase,
        reserved_bytes=replay(log).reserved_peak,
        smallest_bytes=smallest_capacity(log),
        smallest_bytes_expandable=smallest_capacity(log, expandable_segments=True),
        flops=log.flops,
        traffic_bytes=log.traffic_bytes,
        num_operators=log.num_operators,
        launches=log.launches,
        attention_kernels=log.attention_kernels,
    )
