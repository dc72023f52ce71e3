"""The replay against hand-worked cases and against a plain transcription of the allocator's rules."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxcrops.planning.dryrun._allocator import WARM_UP_MARGIN_BYTES, Peak, peak, replay, smallest_capacity
from maxcrops.planning.dryrun._events import CATEGORIES, EventLog
from maxcrops.planning.dryrun._launch import PHASES

KIB, MIB, GIB = 2**10, 2**20, 2**30
STEP = 2 * MIB


def log_of(steps: Sequence[int], categories: Sequence[str] = ()) -> EventLog:
    """A step is the bytes of an allocation, or -k: free the allocation k (from 1 on)."""
    sizes = [step for step in steps if step >= 0]
    events = [
        (-step - 1, True) if step < 0 else (sum(s >= 0 for s in steps[:i]), False) for i, step in enumerate(steps)
    ]
    count = len(sizes)
    names = [*categories, *["temporaries"] * (count - len(categories))]
    return EventLog(
        operators=("empty",),
        modules=("",),
        event_allocation=np.array([allocation for allocation, _ in events], np.int32),
        event_is_free=np.array([is_free for _, is_free in events], np.bool_),
        num_bytes=np.array(sizes, np.int64),
        operator=np.zeros(count, np.int32),
        module=np.zeros(count, np.int32),
        phase=np.full(count, PHASES.index("forward"), np.int8),
        category=np.array([CATEGORIES.index(name) for name in names], np.int8),
    )


# -- a transcription of CUDACachingAllocator.cpp, without an eye on speed ------------------------------------------


class Reference:
    """Blocks are [state, size] in lists, one list a segment, in the order of their addresses; sizes in bytes."""

    def __init__(self, expandable: bool) -> None:
        self.expandable = expandable
        self.segments: list[tuple[str, list[list[object]]]] = []
        if expandable:
            self.segments = [(pool, [["unmapped", 2**50]]) for pool in ("small", "large")]
        self.allocated = self.reserved = self.allocated_peak = self.reserved_peak = 0

    def malloc(self, size: int, capacity: int | None) -> list[object] | None:
        size = -(-size // 512) * 512
        pool = "small" if size <= MIB else "large"
        found = self.best_fit(pool, size) or self.grow(pool, size, capacity)
        if found is None:
            self.release()
            found = self.grow(pool, size, capacity)
        if found is None:
            return None
        segment, block = found
        rest = block[1] - size
        if rest >= 512 if pool == "small" or self.expandable else rest > MIB:
            block[1] = size
            segment.insert(self.index(segment, block) + 1, ["free", rest])
        block[0] = "used"
        self.allocated += block[1]
        self.allocated_peak = max(self.allocated_peak, self.allocated)
        return block

    def free(self, block: list[object]) -> None:
        self.allocated -= block[1]
        block[0] = "free"
        for _, segment in self.segments:
            self.merge(segment)

    @staticmethod
    def index(segment: list[list[object]], block: list[object]) -> int:
        return next(i for i, other in enumerate(segment) if other is block)

    @staticmethod
    def merge(segment: list[list[object]]) -> None:
        for i in range(len(segment) - 1, 0, -1):
            if segment[i][0] == segment[i - 1][0] != "used":
                segment[i - 1][1] += segment[i][1]
                del segment[i]

    def best_fit(self, pool: str, size: int):
        blocks = [
            (segment, i)
            for owner, segment in self.segments
            if owner == pool
            for i, block in enumerate(segment)
            if block[0] == "free" and block[1] >= size
        ]
        blocks.sort(key=lambda found: found[0][found[1]][1])  # stable: the lowest address first
        if not blocks:
            return None

        def expandable_size(found) -> int:
            segment, i = found
            unmapped = i + 1 < len(segment) and segment[i + 1][0] == "unmapped"
            return segment[i][1] + (segment[i + 1][1] if unmapped else 0)

        at = 0
        while (
            self.expandable and at + 1 < len(blocks) and expandable_size(blocks[at + 1]) < expandable_size(blocks[at])
        ):
            at += 1
        segment, i = blocks[at]
        return segment, segment[i]

    def take(self, size: int, capacity: int | None) -> bool:
        if capacity is not None and self.reserved + size > capacity:
            return False
        self.reserved += size
        self.reserved_peak = max(self.reserved_peak, self.reserved)
        return True

    def grow(self, pool: str, size: int, capacity: int | None):
        if not self.expandable:
            shared = 2 * MIB if pool == "small" else 20 * MIB
            rounded = shared if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            if not self.take(rounded, capacity):
                return None
            block = ["free", rounded]
            self.segments.append((pool, [block]))
            return self.segments[-1][1], block
        segment = dict(self.segments)[pool]
        page = 2 * MIB if pool == "small" else 20 * MIB
        for i in range(len(segment)):
            if segment[i][0] != "unmapped":
                continue
            start = i - 1 if i and segment[i - 1][0] == "free" else i
            room = 0
            for state, length in segment[start:]:
                if state == "used":
                    break
                room += length
            if room < size:
                continue
            while not (segment[start][0] == "free" and segment[start][1] >= size):
                hole = start if segment[start][0] == "unmapped" else start + 1
                missing = size - (segment[start][1] if hole > start else 0)
                pages = -(-min(missing, segment[hole][1]) // page) * page
                if not self.take(pages, capacity):
                    return None
                left = segment[hole][1] - pages
                segment[hole : hole + 1] = [["free", pages]] + ([["unmapped", left]] if left else [])
                self.merge(segment)
            return segment, segment[start]
        raise AssertionError

    def release(self) -> None:
        if not self.expandable:
            for _, segment in list(self.segments):
                if len(segment) == 1 and segment[0][0] == "free":
                    self.reserved -= segment[0][1]
                    self.segments = [kept for kept in self.segments if kept[1] is not segment]
            return
        for pool, segment in self.segments:
            page = 2 * MIB if pool == "small" else 20 * MIB
            address, after = 0, []
            for state, length in segment:
                begin, end = -(-address // page) * page, (address + length) // page * page
                if state == "free" and begin < end:
                    parts = [("free", begin - address), ("unmapped", end - begin), ("free", address + length - end)]
                    after += [[name, size] for name, size in parts if size]
                    self.reserved -= end - begin
                else:
                    after.append([state, length])
                address += length
            # Blocks in use keep their identity.
            used = iter([block for block in segment if block[0] == "used"])
            segment[:] = [next(used) if block[0] == "used" else block for block in after]
            self.merge(segment)


def by_reference(log: EventLog, capacity: int | None, expandable: bool) -> tuple[int, int, int | None]:
    reference = Reference(expandable)
    blocks = {}
    for i, (allocation, is_free) in enumerate(
        zip(log.event_allocation.tolist(), log.event_is_free.tolist(), strict=True)
    ):
        if is_free:
            if allocation in blocks:
                reference.free(blocks.pop(allocation))
        elif log.num_bytes[allocation]:
            block = reference.malloc(int(log.num_bytes[allocation]), capacity)
            if block is None:
                return reference.allocated_peak, reference.reserved_peak, i
            blocks[allocation] = block
    return reference.allocated_peak, reference.reserved_peak, None


EDGES = [512, MIB, 2 * MIB, 10 * MIB, 11 * MIB, 20 * MIB, 40 * MIB]
sizes = st.one_of(
    st.sampled_from([edge + shift for edge in EDGES for shift in (-512, -1, 0, 1, 512)]),
    st.integers(1, 4 * KIB),
    st.integers(1, 64 * MIB),
)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 60) -> EventLog:
    steps: list[int] = []
    live: list[int] = []
    count = 0
    for _ in range(draw(st.integers(1, max_size))):
        if live and draw(st.booleans()):
            steps.append(-live.pop(draw(st.integers(0, len(live) - 1))))
        else:
            count += 1
            steps.append(draw(sizes))
            live.append(count)
    return log_of(steps)


class TestRules:
    @settings(max_examples=150, deadline=None)
    @given(logs(), st.booleans(), st.one_of(st.none(), st.integers(0, 400 * MIB)))
    def test_transcription_agrees(self, log: EventLog, expandable: bool, capacity: int | None) -> None:
        got = replay(log, capacity=capacity, expandable_segments=expandable, warm_weights=False)
        assert (got.allocated_peak, got.reserved_peak, got.failed_event) == by_reference(log, capacity, expandable)
        assert got.fits == (got.failed_event is None)

    @settings(max_examples=60, deadline=None)
    @given(logs(), st.booleans())
    def test_blocks_hold_requests(self, log: EventLog, expandable: bool) -> None:
        live = int(log.live_bytes().max())
        got = replay(log, expandable_segments=expandable)
        assert live <= got.allocated_peak <= got.reserved_peak
        # Only large blocks of whole segments are not cut to size, and they keep at most 1 MiB more.
        spare = 0 if expandable else int((log.num_bytes > MIB - 512).sum()) * MIB
        assert got.allocated_peak <= live + spare

    @settings(max_examples=60, deadline=None)
    @given(logs(), st.booleans())
    def test_capacity_fits(self, log: EventLog, expandable: bool) -> None:
        smallest = smallest_capacity(log, expandable_segments=expandable)
        unlimited = replay(log, expandable_segments=expandable)
        assert smallest % STEP == 0
        assert int(log.live_bytes().max()) <= smallest <= -(-unlimited.reserved_peak // STEP) * STEP
        assert replay(log, capacity=smallest, expandable_segments=expandable).fits
        assert replay(log, capacity=smallest + STEP - 1, expandable_segments=expandable).fits
        assert smallest == 0 or not replay(log, capacity=smallest - 1, expandable_segments=expandable).fits
        # With what it takes when nothing limits it, it does the same again.
        assert replay(log, capacity=unlimited.reserved_peak, expandable_segments=expandable) == unlimited


class TestByHand:
    """(steps, bytes allocated at most, MiB reserved at most), by default in the native allocator."""

    @pytest.mark.parametrize(
        ("steps", "allocated", "reserved"),
        [
            pytest.param([1], 512, 2, id="small requests share 2 MiB"),
            pytest.param([512, 513], 512 + 1024, 2, id="multiples of 512"),
            pytest.param([MIB, MIB], 2 * MIB, 2, id="1 MiB is small"),
            pytest.param([MIB, MIB, 1], 2 * MIB + 512, 4, id="a full small segment"),
            pytest.param([MIB + 1], MIB + 512, 20, id="more than 1 MiB is large"),
            pytest.param([10 * MIB - 512], 10 * MIB - 512, 20, id="just under 10 MiB shares 20 MiB"),
            pytest.param([10 * MIB - 1], 10 * MIB, 10, id="rounding to 512 comes first"),
            pytest.param([10 * MIB], 10 * MIB, 10, id="10 MiB has its own segment"),
            pytest.param([10 * MIB + 1], 10 * MIB + 512, 12, id="a rest of almost 2 MiB is cut off"),
            pytest.param([11 * MIB], 12 * MIB, 12, id="a rest of 1 MiB is not"),
            pytest.param([11 * MIB - 512], 11 * MIB - 512, 12, id="a rest of 512 bytes more is"),
            pytest.param([30 * MIB, -1, 29 * MIB], 30 * MIB, 30, id="cached blocks keep a rest of 1 MiB too"),
            pytest.param([8 * MIB, 8 * MIB, -1, -2, 20 * MIB], 20 * MIB, 20, id="neighbours merge"),
            pytest.param([8 * MIB, 8 * MIB, -1, 12 * MIB], 20 * MIB, 32, id="not around one in use"),
            pytest.param([8 * MIB, 8 * MIB, -2, 12 * MIB], 20 * MIB, 20, id="with the rest behind"),
            pytest.param([30 * MIB, 22 * MIB, -1, -2, 20 * MIB, 30 * MIB], 52 * MIB, 52, id="the best fit is taken"),
            pytest.param([20 * MIB, 20 * MIB, -1, -2, 40 * MIB], 40 * MIB, 80, id="segments do not merge"),
            pytest.param([20 * MIB, -1, MIB], 20 * MIB, 22, id="pools do not mix"),
            pytest.param([0, -1, 0], 0, 0, id="empty tensors are nowhere"),
            pytest.param([], 0, 0, id="nothing"),
        ],
    )
    def test_native(self, steps: list[int], allocated: int, reserved: int) -> None:
        got = replay(log_of(steps))
        assert (got.allocated_peak, got.reserved_peak) == (allocated, reserved * MIB)

    @pytest.mark.parametrize(
        ("steps", "allocated", "reserved"),
        [
            pytest.param([11 * MIB], 11 * MIB, 20, id="pages of 20 MiB, cut to size"),
            pytest.param([20 * MIB, 20 * MIB, -1, -2, 40 * MIB], 40 * MIB, 40, id="all is one segment"),
            pytest.param([20 * MIB, 8 * MIB, 30 * MIB], 58 * MIB, 60, id="the last free block grows"),
            pytest.param([20 * MIB, 20 * MIB, -1, 30 * MIB], 50 * MIB, 80, id="a hole does not"),
            pytest.param([20 * MIB, -1, MIB], 20 * MIB, 22, id="pools do not mix"),
        ],
    )
    def test_expandable(self, steps: list[int], allocated: int, reserved: int) -> None:
        got = replay(log_of(steps), expandable_segments=True)
        assert (got.allocated_peak, got.reserved_peak) == (allocated, reserved * MIB)

    def test_cache_is_emptied_on_failure(self) -> None:
        log = log_of([20 * MIB, -1, 30 * MIB])
        assert replay(log).reserved_peak == 50 * MIB
        assert replay(log, capacity=49 * MIB).reserved_peak == 30 * MIB
        assert smallest_capacity(log) == 30 * MIB
        failed = replay(log, capacity=28 * MIB)
        assert not failed.fits
        assert failed.failed_event == 2
        assert failed.allocated_peak == 20 * MIB

    def test_segments_in_use_are_kept(self) -> None:
        # 1.5 MiB in use hold a segment of 20 MiB, whose rest of 18.5 MiB nobody else can have.
        log = log_of([10 * MIB - 512, 3 * MIB // 2, -1, 30 * MIB])
        assert replay(log, capacity=50 * MIB).fits
        assert not replay(log, capacity=48 * MIB).fits
        assert smallest_capacity(log) == 50 * MIB

    def test_expandable_segments_give_pages_back(self) -> None:
        # 60 MiB, whose second page is used again. Only the first of the other two lies in front of 30 MiB more.
        log = log_of([20 * MIB, 20 * MIB, 20 * MIB, -1, -3, 30 * MIB])
        assert replay(log, expandable_segments=True).reserved_peak == 80 * MIB
        assert smallest_capacity(log, expandable_segments=True) == 60 * MIB
        assert smallest_capacity(log) == 60 * MIB  # 20 in use, 30 new, 20 of the cache emptied before its peak

    def test_large_segments_are_a_setting(self) -> None:
        assert replay(log_of([2 * MIB]), large_segment_bytes=32 * MIB).reserved_peak == 32 * MIB
        got = replay(log_of([2 * MIB]), large_segment_bytes=32 * MIB, expandable_segments=True)
        assert got.reserved_peak == 32 * MIB
        for value in (8 * MIB, 21 * MIB):
            with pytest.raises(ValueError, match=r"^\[dry_run\] large_segment_bytes must be a multiple of 2 MiB"):
                replay(log_of([1]), large_segment_bytes=value)

    def test_capacity_cannot_be_negative(self) -> None:
        with pytest.raises(ValueError, match=r"^\[dry_run\] capacity must be at least 0 bytes, got -1"):
            replay(log_of([1]), capacity=-1)


class TestWarmUp:
    WEIGHTS = (15 * MIB, 15 * MIB, 15 * MIB, KIB)

    def test_weights_in_one_segment(self) -> None:
        log = log_of(self.WEIGHTS, ["weights"] * 4)
        assert replay(log, warm_weights=False).reserved_peak == (3 * 16 + 2) * MIB
        assert replay(log).reserved_peak == (46 + 2) * MIB
        # Every segment of its own keeps 1 MiB that is not cut off; in one segment only the last can.
        assert replay(log, warm_weights=False).allocated_peak == 48 * MIB + KIB
        assert replay(log).allocated_peak == 46 * MIB + KIB

    def test_device_keeps_a_margin(self) -> None:
        log = log_of(self.WEIGHTS, ["weights"] * 4)
        # 31 MiB: two weights lie in the warm segment of 32 MiB, one in its own of 16.
        assert replay(log, capacity=WARM_UP_MARGIN_BYTES + 31 * MIB).reserved_peak == (32 + 16 + 2) * MIB
        assert replay(log, capacity=WARM_UP_MARGIN_BYTES // 2).reserved_peak == (3 * 16 + 2) * MIB

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(0, 3 * GIB))
    def test_smallest_capacity_feels_the_margin(self, weights: list[int], work: int) -> None:
        log = log_of([*(size * 7 * MIB // 3 for size in weights), work], ["weights"] * len(weights))
        smallest = smallest_capacity(log)
        assert replay(log, capacity=smallest).fits
        # Not one byte less: the warm-up follows the capacity to the byte, and may leave luckier gaps.
        assert not replay(log, capacity=smallest - STEP).fits


class TestPeak:
    def test_moment_and_categories(self) -> None:
        log = log_of([1000, 4000, -2, 4000, 600, -3], ["weights", "activations", "kv_cache"])
        assert peak(log) == Peak(
            bytes=1024 + 4096 + 1024,
            by_category={
                "weights": 1024,
                "gradients": 0,
                "optimizer": 0,
                "kv_cache": 4096,
                "activations": 0,
                "temporaries": 1024,
            },
            operator="empty",
            module="",
            phase="forward",
            event=4,
        )

    @settings(max_examples=50, deadline=None)
    @given(logs())
    def test_categories_sum_up(self, log: EventLog) -> None:
        found = peak(log)
        assert found.bytes == sum(found.by_category.values()) == int(log.live_bytes().max())

    def test_empty(self) -> None:
        with pytest.raises(ValueError, match=r"^\[dry_run\] log must have at least one event, got none"):
            peak(log_of([]))


def test_a_long_log_in_a_second() -> None:
    """40,000 events of a training step, with the search for the smallest capacity; about 0.4 s on a quiet machine."""
    random = np.random.default_rng(0)
    steps = [int(size) for size in random.integers(16 * KIB, 200 * MIB, 400)]
    live: list[int] = []
    count = len(steps)
    for i in range(39_600):
        # Activations pile up, then go.
        if live and random.random() < (0.35 if i < 20_000 else 0.65):
            steps.append(-live.pop(int(random.integers(max(0, len(live) - 6), len(live)))))
        else:
            count += 1
            steps.append(int(random.choice([512, 24 * KIB, 3 * MIB, 24 * MIB, 25 * MIB, 90 * MIB])))
            live.append(count)
    allocation = np.zeros(len(steps), np.int32)
    is_free = np.array(steps) < 0
    allocation[~is_free] = np.arange(count)
    allocation[is_free] = -np.array(steps)[is_free] - 1
    log = EventLog(
        operators=("empty",),
        modules=("",),
        event_allocation=allocation,
        event_is_free=is_free,
        num_bytes=np.array([step for step in steps if step > 0], np.int64),
        operator=np.zeros(count, np.int32),
        module=np.zeros(count, np.int32),
        phase=np.zeros(count, np.int8),
        category=np.where(np.arange(count) < 400, 0, 5).astype(np.int8),
    )
    for expandable in (False, True):
        begin = time.process_time()
        smallest_capacity(log, expandable_segments=expandable)
        assert time.process_time() - begin < 3  # tests run side by side on slower machines too
