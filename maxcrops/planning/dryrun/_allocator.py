"""What PyTorch's CUDA caching allocator makes of a log: memory reserved, and the least memory that survives it.

The rules are those of ``DeviceCachingAllocator`` in pytorch/c10/cuda/CUDACachingAllocator.cpp with its default settings
(no max_split_size_mb, no roundup_power2_divisions, no garbage_collection_threshold) on one stream without CUDA graphs;
the constants are those of c10/core/AllocatorConfig.h in PyTorch 2.13. It is a model of read code: which of two equally
large blocks is taken depends on addresses, which here are handed out in the order of the requests.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from maxcrops.planning.dryrun._events import CATEGORIES, Category, EventLog
from maxcrops.planning.dryrun._launch import PHASES, Phase

_MIB = 1 << 20
_UNIT = 512
"""kMinBlockSize: every block is a multiple of it, so all sizes and addresses below count units."""
_SMALL_SIZE = _MIB // _UNIT
"""kSmallSize: requests up to 1 MiB are served from the small pool."""
_SMALL_SEGMENT = 2 * _MIB // _UNIT
"""kSmallBuffer: the segments of the small pool."""
_MIN_LARGE_SIZE = 10 * _MIB // _UNIT
"""kMinLargeAlloc: requests from 10 MiB on get a segment of their own size."""
_LARGE_ROUNDING = 2 * _MIB // _UNIT
"""kRoundLarge: which is rounded up to 2 MiB."""

_CAPACITY_STEP = 2 * _MIB
"""All segments and pages are multiples of 2 MiB, so nothing finer is worth a search."""

WARM_UP_MARGIN_BYTES = int(1.2 * 1024**3)
"""transformers leaves so much of the device free when it warms up: caching_allocator_warmup in modeling_utils.py."""

_SMALL, _LARGE = 0, 1
_ADDRESS_BITS = 50
_ADDRESS_MASK = (1 << _ADDRESS_BITS) - 1
_ADDRESS_SPACE = 1 << (_ADDRESS_BITS - 2)
"""Of an expandable segment. CUDA reserves 9/8 of the device's memory; this model never runs out of addresses."""


@dataclass(frozen=True)
class Replay:
    """What the allocator did with a log."""

    allocated_peak: int
    """Bytes, as ``torch.cuda.max_memory_allocated``: whole blocks, so up to 1 MiB more than each large request."""
    reserved_peak: int
    """Bytes, as ``torch.cuda.max_memory_reserved``; the CUDA context is not part of it."""
    fits: bool
    failed_event: int | None
    """Index of the event whose allocation failed even after the cache was emptied; the peaks are those up to it."""


@dataclass(frozen=True)
class Peak:
    """The moment of most memory in use, each allocation rounded up to 512 bytes."""

    bytes: int
    by_category: Mapping[Category, int]
    """Bytes in use at that moment; they sum to ``bytes``."""
    operator: str
    """That made the last allocation before the peak."""
    module: str
    phase: Phase
    event: int
    """Index of that event."""


def peak(log: EventLog) -> Peak:
    """The first moment at which most memory is in use.

    Raises:
        ValueError: if the log has no event.
    """
    live = log.live_bytes(_UNIT)
    if not live.size:
        raise ValueError("[dry_run] log must have at least one event, got none; run the model")
    event = int(live.argmax())
    seen = log.event_allocation[: event + 1]
    freed = log.event_is_free[: event + 1]
    # An allocation is made once and freed at most once, so those made and not freed are the live ones.
    alive = np.setdiff1d(seen[~freed], seen[freed], assume_unique=True)
    rounded = -(-log.num_bytes[alive] // _UNIT) * _UNIT
    sums = np.zeros(len(CATEGORIES), np.int64)
    np.add.at(sums, log.category[alive], rounded)
    last = int(log.event_allocation[event])
    return Peak(
        bytes=int(live[event]),
        by_category={name: int(total) for name, total in zip(CATEGORIES, sums, strict=True)},
        operator=log.operators[log.operator[last]],
        module=log.modules[log.module[last]],
        phase=PHASES[log.phase[last]],
        event=event,
    )


def replay(
    log: EventLog,
    *,
    capacity: int | None = None,
    expandable_segments: bool = False,
    large_segment_bytes: int = 20 * _MIB,
    warm_weights: bool = True,
) -> Replay:
    """Run the allocations of `log` through the caching allocator.

    Args:
        log: What the model asked for.
        capacity: Bytes that the allocator can get from the device, without the CUDA context. None: no limit.
        expandable_segments: As in PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.
        large_segment_bytes: The segments that requests between 1 and 10 MiB share, and the pages of expandable
            segments: large_segment_size_mb of PyTorch 2.13, 20 MiB before.
        warm_weights: Whether all weights lie in one segment, as after ``from_pretrained(device_map=...)``, which
            allocates their sum once and gives it back, at most the device's memory less 1.2 GiB. (``.to("cuda")``
            gives every large weight a segment of its own.)

    Raises:
        ValueError: if capacity is negative, or large_segment_bytes is not a multiple of 2 MiB of at least 10 MiB.
    """
    if capacity is not None and capacity < 0:
        raise ValueError(f"[dry_run] capacity must be at least 0 bytes, got {capacity}; None means no limit")
    trace = _Trace(log, expandable_segments, large_segment_bytes, warm_weights)
    allocator = trace.start(capacity)
    failed = trace.run(allocator, 0, capacity)
    return Replay(
        allocated_peak=allocator.allocated_peak * _UNIT,
        reserved_peak=allocator.reserved_peak * _UNIT,
        fits=failed is None,
        failed_event=None if failed is None else trace.event_index[failed],
    )


def smallest_capacity(
    log: EventLog,
    *,
    expandable_segments: bool = False,
    large_segment_bytes: int = 20 * _MIB,
    warm_weights: bool = True,
) -> int:
    """The smallest capacity, in bytes, among multiples of 2 MiB, that ``replay`` survives.

    A bisection, which assumes that more memory never hurts. The allocator does not promise that (another history of
    emptied caches is another fragmentation), so the value may not be the very least, but it has itself been replayed:
    ``replay(log, capacity=value).fits`` holds.

    Raises:
        ValueError: as ``replay``.
    """
    trace = _Trace(log, expandable_segments, large_segment_bytes, warm_weights)
    unlimited = trace.start(None)
    trace.run(unlimited, 0, None)
    live = log.live_bytes(_UNIT)
    # Less than what is in use never fits. From `enough` on neither the device nor the warm-up's margin is ever felt.
    too_small = -(-int(live.max(initial=0)) // _CAPACITY_STEP) - 1
    enough = -(-(unlimited.reserved_peak * _UNIT + WARM_UP_MARGIN_BYTES) // _CAPACITY_STEP)

    # Replays with different capacities are one and the same until the smaller one's first refusal.
    shared: tuple[int, int, _Allocator] | None = None
    while enough - too_small > 1:
        steps = (too_small + enough) // 2
        capacity = steps * _CAPACITY_STEP
        warm = trace.warm_up_units(capacity)
        if shared is not None and shared[0] == warm:
            position, allocator = shared[1], shared[2].copy()
        else:
            position, allocator = 0, trace.start(capacity)
        failed = trace.run(allocator, position, capacity)
        if failed is None:
            enough = steps
        else:
            too_small = steps
            assert allocator.first_refusal is not None
            shared = (warm, *allocator.first_refusal)
    return enough * _CAPACITY_STEP


class _Trace:
    """A log's requests in units, and how to run them."""

    def __init__(self, log: EventLog, expandable: bool, large_segment_bytes: int, warm_weights: bool) -> None:
        if large_segment_bytes % (2 * _MIB) or large_segment_bytes < 10 * _MIB:
            raise ValueError(
                "[dry_run] large_segment_bytes must be a multiple of 2 MiB of at least 10 MiB, "
                f"got {large_segment_bytes}; PyTorch's default is {20 * _MIB}"
            )
        self._expandable = expandable
        self._large_segment = large_segment_bytes // _UNIT
        units = -(-log.num_bytes // _UNIT)
        self._units: list[int] = units.tolist()
        # Tensors without elements never reach the allocator.
        kept = np.flatnonzero(units[log.event_allocation] > 0)
        allocations = log.event_allocation[kept]
        # One integer an event: the allocation, or its complement when it is freed.
        self._events: list[int] = np.where(log.event_is_free[kept], ~allocations, allocations).tolist()
        self.event_index: list[int] = kept.tolist()
        is_weight = log.category == CATEGORIES.index("weights")
        self._weight_bytes = int(log.num_bytes[is_weight].sum()) if warm_weights else 0

    def warm_up_units(self, capacity: int | None) -> int:
        """Units of the warm-up allocation of transformers' caching_allocator_warmup."""
        most = self._weight_bytes
        if capacity is not None:
            most = min(most, max(0, capacity - WARM_UP_MARGIN_BYTES))
        return -(-most // _UNIT)

    def start(self, capacity: int | None) -> _Allocator:
        """An allocator as it is before the first event."""
        allocator = (_Expandable if self._expandable else _Allocator)(self._large_segment)
        warm = self.warm_up_units(capacity)
        if warm:
            address, size = allocator.allocate(warm, allocator.UNLIMITED) or (0, 0)
            allocator.free(_LARGE if warm > _SMALL_SIZE else _SMALL, address, size)
        # The warm-up is over before anything is measured; what it reserved stays.
        allocator.reserved_peak = allocator.reserved
        return allocator

    def run(self, allocator: _Allocator, position: int, capacity: int | None) -> int | None:
        """Go on from `position` in the events; returns the position of the one that failed, None if none did."""
        limit = allocator.UNLIMITED if capacity is None else capacity // _UNIT
        units, blocks, events = self._units, allocator.blocks, self._events
        allocated, allocated_peak = allocator.allocated, allocator.allocated_peak
        failed = None
        for at in range(position, len(events)):
            event = events[at]
            if event < 0:
                address, size = blocks.pop(~event)
                allocated -= size
                allocator.free(_SMALL if units[~event] <= _SMALL_SIZE else _LARGE, address, size)
                continue
            block = allocator.allocate(units[event], limit)
            if block is None:
                if allocator.first_refusal is None:
                    allocator.allocated, allocator.allocated_peak = allocated, allocated_peak
                    allocator.first_refusal = (at, allocator.copy())
                allocator.release_cached()
                block = allocator.allocate(units[event], limit)
                if block is None:
                    failed = at
                    break
            blocks[event] = block
            allocated += block[1]
            if allocated > allocated_peak:
                allocated_peak = allocated
        allocator.allocated, allocator.allocated_peak = allocated, allocated_peak
        return failed


class _Allocator:
    """Segments from cudaMalloc, cut into blocks. Free neighbours are always merged, so free blocks need no links:
    one that ends where another starts, is its neighbour, as segments are laid one unit apart."""

    UNLIMITED = 1 << 62

    def __init__(self, large_segment: int) -> None:
        self.large_segment = large_segment
        self.keys: tuple[list[int], list[int]] = ([], [])
        """Of each pool, sorted: size << 50 | address of the free blocks, so the best fit is the next key."""
        self.size_at: dict[int, int] = {}
        """Start of a free block: its size."""
        self.start_of: dict[int, int] = {}
        """End of a free block: its start."""
        self.segments: dict[int, int] = {}
        """Start: size."""
        self.next_address = 0
        self.blocks: dict[int, tuple[int, int]] = {}
        """Allocation: address and size of its block."""
        self.allocated = self.allocated_peak = 0
        self.reserved = self.reserved_peak = 0
        self.first_refusal: tuple[int, _Allocator] | None = None
        """Position in the events, and the state just before, of the first request that the device refused."""

    def copy(self) -> _Allocator:
        twin = copy.copy(self)
        twin.keys = (self.keys[_SMALL].copy(), self.keys[_LARGE].copy())
        twin.size_at = self.size_at.copy()
        twin.start_of = self.start_of.copy()
        twin.segments = self.segments.copy()
        twin.blocks = self.blocks.copy()
        return twin

    def allocate(self, units: int, limit: int) -> tuple[int, int] | None:
        """Address and size of a block for a request, None where a new segment would exceed `limit`."""
        pool = _SMALL if units <= _SMALL_SIZE else _LARGE
        keys = self.keys[pool]
        at = self._best_fit(keys, units)
        if at < len(keys):
            key = keys.pop(at)
            address, size = key & _ADDRESS_MASK, key >> _ADDRESS_BITS
            del self.size_at[address]
            del self.start_of[address + size]
        else:
            new = self._grow(pool, units, limit)
            if new is None:
                return None
            address, size = new
        rest = size - units
        if self._splits(pool, rest):
            # The block behind the rest is in use, or it would have been merged with it.
            insort(keys, rest << _ADDRESS_BITS | (address + units))
            self.size_at[address + units] = rest
            self.start_of[address + size] = address + units
            return address, units
        return address, size

    def free(self, pool: int, address: int, size: int) -> None:
        """Put a block back into the cache, merged with its free neighbours (free_block, try_merge_blocks)."""
        size_at, start_of, keys = self.size_at, self.start_of, self.keys[pool]
        behind = size_at.pop(address + size, 0)
        if behind:
            del keys[bisect_left(keys, behind << _ADDRESS_BITS | (address + size))]
            size += behind
        before = start_of.pop(address, None)
        if before is not None:
            del keys[bisect_left(keys, size_at[before] << _ADDRESS_BITS | before)]
            size += address - before
            address = before
        size_at[address] = size
        start_of[address + size] = address
        insort(keys, size << _ADDRESS_BITS | address)

    def release_cached(self) -> None:
        """Give every segment that is free as a whole back to the device (release_cached_blocks)."""
        for pool in (_SMALL, _LARGE):
            for address, size in self._free_blocks(pool):
                if self.segments.get(address) == size:
                    del self.segments[address]
                    self._forget(pool, address, size)
                    self.reserved -= size

    def _best_fit(self, keys: list[int], units: int) -> int:
        """Index of the smallest block that is large enough, of those the lowest (get_free_block)."""
        return bisect_left(keys, units << _ADDRESS_BITS)

    def _splits(self, pool: int, rest: int) -> bool:
        """should_split: large blocks keep a rest of up to 1 MiB."""
        return rest > 0 if pool == _SMALL else rest > _SMALL_SIZE

    def _grow(self, pool: int, units: int, limit: int) -> tuple[int, int] | None:
        """A new segment, in use as one block (get_allocation_size, cudaMalloc)."""
        if pool == _SMALL:
            size = _SMALL_SEGMENT
        elif units < _MIN_LARGE_SIZE:
            size = self.large_segment
        else:
            size = -(-units // _LARGE_ROUNDING) * _LARGE_ROUNDING
        if self.reserved + size > limit:
            return None
        address = self.next_address
        self.next_address = address + size + 1
        self.segments[address] = size
        self._reserve(size)
        return address, size

    def _reserve(self, size: int) -> None:
        self.reserved += size
        self.reserved_peak = max(self.reserved_peak, self.reserved)

    def _free_blocks(self, pool: int) -> list[tuple[int, int]]:
        return [(key & _ADDRESS_MASK, key >> _ADDRESS_BITS) for key in self.keys[pool]]

    def _forget(self, pool: int, address: int, size: int) -> None:
        """Take a free block out of the cache."""
        keys = self.keys[pool]
        del keys[bisect_left(keys, size << _ADDRESS_BITS | address)]
        del self.size_at[address]
        del self.start_of[address + size]


class _Expandable(_Allocator):
    """One segment a pool, whose addresses get memory page by page and may lose it again, in whole free pages.

    See Note [Expandable Segments] in CUDACachingAllocator.cpp.
    """

    def __init__(self, large_segment: int) -> None:
        super().__init__(large_segment)
        self.unmapped = tuple({self._base(pool): _ADDRESS_SPACE} for pool in (_SMALL, _LARGE))
        """Of each pool: start and size of the address ranges without memory."""

    def copy(self) -> _Allocator:
        twin = super().copy()
        assert isinstance(twin, _Expandable)
        twin.unmapped = (self.unmapped[_SMALL].copy(), self.unmapped[_LARGE].copy())
        return twin

    def release_cached(self) -> None:
        """Take the memory from every page that is free as a whole (unmap_block)."""
        for pool in (_SMALL, _LARGE):
            page, base = self._page(pool), self._base(pool)
            unmapped = self.unmapped[pool]
            for address, size in self._free_blocks(pool):
                begin = base + -(-(address - base) // page) * page
                end = base + (address + size - base) // page * page
                if begin >= end:
                    continue
                self._forget(pool, address, size)
                self.reserved -= end - begin
                if address < begin:
                    self.free(pool, address, begin - address)
                if end < address + size:
                    self.free(pool, end, address + size - end)
                behind = unmapped.pop(end, 0)
                before = next((start for start, length in unmapped.items() if start + length == begin), begin)
                unmapped[before] = end + behind - before

    def _page(self, pool: int) -> int:
        return _SMALL_SEGMENT if pool == _SMALL else self.large_segment

    def _base(self, pool: int) -> int:
        return 0 if pool == _SMALL else _ADDRESS_SPACE + 1

    def _splits(self, pool: int, rest: int) -> bool:
        return rest > 0

    def _best_fit(self, keys: list[int], units: int) -> int:
        """A block that could grow counts as large as it could grow (expandable_size in get_free_block)."""
        at = super()._best_fit(keys, units)
        while at + 1 < len(keys) and self._expandable_size(keys[at + 1]) < self._expandable_size(keys[at]):
            at += 1
        return at

    def _expandable_size(self, key: int) -> int:
        address, size = key & _ADDRESS_MASK, key >> _ADDRESS_BITS
        end = address + size
        return size + self.unmapped[_SMALL].get(end, 0) + self.unmapped[_LARGE].get(end, 0)

    def _grow(self, pool: int, units: int, limit: int) -> tuple[int, int] | None:
        """Pages for the lowest range of free or unmapped addresses that is long enough (find_expandable_block)."""
        for start in sorted(self.unmapped[pool]):
            address = self.start_of.get(start, start)
            if self._room(pool, address) < units:
                continue
            while True:
                size = self.size_at.get(address, 0)
                if size >= units:
                    self._forget(pool, address, size)
                    return address, size
                if not self._map(pool, address + size, units - size, limit):
                    return None
        raise AssertionError("the address space is endless")

    def _room(self, pool: int, address: int) -> int:
        """Units from `address` on that are free or unmapped."""
        end = address
        while size := self.size_at.get(end, 0) or self.unmapped[pool].get(end, 0):
            end += size
        return end - address

    def _map(self, pool: int, address: int, units: int, limit: int) -> bool:
        """Memory for the pages from `address` on, at most up to the end of its unmapped range (map_block)."""
        page = self._page(pool)
        length = self.unmapped[pool][address]
        size = -(-min(units, length) // page) * page
        if self.reserved + size > limit:
            return False
        del self.unmapped[pool][address]
        if size < length:
            self.unmapped[pool][address + size] = length - size
        self.free(pool, address, size)
        self._reserve(size)
        return True
