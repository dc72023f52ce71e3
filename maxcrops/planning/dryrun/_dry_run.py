"""``dry_run``: what a model would use on a GPU, read off a run on weights that have no memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from maxcrops._arguments import require_arguments
from maxcrops._bounds import worst_case
from maxcrops._layout import layout
from maxcrops.exceptions import UnsupportedError
from maxcrops.planning.devices import Device, get_device
from maxcrops.planning.dryrun import _cache
from maxcrops.planning.dryrun._allocator import replay
from maxcrops.planning.dryrun._attention import bundled_cudnn
from maxcrops.planning.dryrun._configs import load_config
from maxcrops.planning.dryrun._engine import observe_in_child
from maxcrops.planning.dryrun._events import EventLog
from maxcrops.planning.dryrun._fit import FittedLogs, design_points, features_of
from maxcrops.planning.dryrun._reading import Reading, read
from maxcrops.planning.dryrun._request import Attention, Mode, Optimizer, Point, RunRequest, Trainable
from maxcrops.planning.dryrun._worker import WorkerPool

if TYPE_CHECKING:
    from maxcrops._core import Layout
    from maxcrops.specs import Spec

CONTEXT_BYTES = 600 << 20
"""What a CUDA context takes beside the allocator's memory: 0.3 to 0.6 GB, by GPU and libraries. The upper end."""

NOT_VALIDATED = "not yet validated on a GPU"
"""Printed with every number that a dry run gives, until measurements are there to compare it with."""

# What share of a GPU's peak rate the matrix products, and of its bandwidth the other operators reach, about; and how
# long a launch takes. They make the roofline an estimate.
_FLOPS_EFFICIENCY = 0.6
_BANDWIDTH_EFFICIENCY = 0.8
_LAUNCH_SECONDS = 4e-6

_MOST_WORKERS = 4


Evidence: TypeAlias = Literal["dry run", "fit of dry runs"]
_EVIDENCES: tuple[Evidence, ...] = ("dry run", "fit of dry runs")

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with the number of steps (runs, and replays of what they allocate) that are done, and the number to do."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DryRun(Reading):
    """What one run would use: the reading of its log, and what was run. Bytes unless a name says otherwise."""

    model_type: str
    spec_key: str
    mode: Mode
    batch_size: int
    max_crops: int | None
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each sample's images, pixels."""
    num_crops: int
    """Crops of one sample, global ones included."""
    sequence_length: int
    """Tokens of one sample, text included."""
    device: Device
    dtype: str
    latency_ms: float | None
    """An estimate by roofline, of all that was run (a prompt, a prompt and its new tokens, a training step); None where
    the device's rates are not known."""
    evidence: Evidence
    """Whether this point was run, or rebuilt event by event from runs at other points."""
    assumptions: tuple[str, ...]
    """What was assumed, in words."""

    @property
    def total_flops(self) -> int:
        """Of all parts."""
        return sum(self.flops.values())

    @property
    def needed_bytes(self) -> int:
        """What a device must have: the least that the allocator survives, and the CUDA context."""
        return self.smallest_bytes + CONTEXT_BYTES

    @property
    def fits(self) -> bool:
        """Whether the device's memory is enough and no launch breaks a limit."""
        return self.needed_bytes <= self.device.memory_bytes and not self.launches

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        values = asdict(self)
        values["device"] = self.device.key
        derived = {"total_flops": self.total_flops, "needed_bytes": self.needed_bytes, "fits": self.fits}
        return {**values, **derived, "validated": False}

    def __repr__(self) -> str:
        gib = 2**30
        verdict = "fits" if self.fits else "does not fit"
        return (
            f"DryRun({self.model_type} {self.mode}, batch {self.batch_size}, {self.num_crops} crops,"
            f" {self.sequence_length} tokens: peak {self.peak_bytes / gib:.2f} GiB in"
            f" {self.peak_module or 'the model'}, needs {self.needed_bytes / gib:.2f} GiB,"
            f" {verdict} {self.device.name}; {NOT_VALIDATED})"
        )


@dataclass(frozen=True)
class LargestBatch:
    """How many samples fit a device at one value of max_crops."""

    batch_size: int
    """0 where not even one fits."""
    binding: Literal["memory", "launch"] | None
    """What one sample more breaks; None where no more were tried."""
    run: DryRun | None
    """Of so many samples; None where none fits."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        run = None if self.run is None else self.run.to_dict()
        return {"batch_size": self.batch_size, "binding": self.binding, "run": run}


class DryRuns:
    """A model under one way of running it, at any size. A context manager; it keeps child processes for its runs.

    Arguments as for ``dry_run``, which describes them, and:

    Args:
        num_workers: processes; None: a few, as the CPUs allow. Each takes about 1 GB.
    """

    def __init__(
        self,
        model: Any,
        spec: Spec,
        *,
        device: Device | str | int = "h100",
        mode: Mode = "prefill",
        text_tokens: int = 512,
        new_tokens: int = 32,
        images_per_sample: int = 1,
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        attention: Attention = "sdpa",
        trainable: Trainable = "all",
        gradient_checkpointing: bool = False,
        optimizer: Optimizer = "adamw_foreach",
        torch_version: str = "2.13",
        cudnn_version: tuple[int, int, int] | Literal["bundled"] | None = "bundled",
        timeout: float = 600,
        num_workers: int | None = None,
    ) -> None:
        require_arguments("dry_run", spec, text_tokens=text_tokens, images_per_sample=images_per_sample)
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise UnsupportedError(f"[dry_run] {package} must be installed: pip install 'maxcrops[transformers]'")
        for name, value, known in (
            ("mode", mode, ("prefill", "generate", "train")),
            ("dtype", dtype, ("bfloat16", "float16", "float32")),
            ("attention", attention, ("sdpa", "eager", "flash_attention_2")),
            ("trainable", trainable, ("all", "frozen_vision", "connector")),
            ("optimizer", optimizer, ("adamw_foreach", "adamw_fused", "none")),
        ):
            if value not in known:
                raise ValueError(f"[dry_run] {name} must be one of {', '.join(known)}, got {value!r}")
        self.spec = spec
        self.device = get_device(device)
        assumptions = []
        if not self.device.is_compute_known:
            self.device = self.device.with_compute_of("h100")
        if self.device.assumption:
            assumptions.append(self.device.assumption)
        cudnn = bundled_cudnn(torch_version) if cudnn_version == "bundled" else cudnn_version
        cudnn_words = f"cuDNN {'.'.join(map(str, cudnn))}" if cudnn else "no cuDNN attention"
        self._assumptions = (
            *assumptions,
            f"attention kernels as chosen by torch {torch_version} with {cudnn_words} on compute capability"
            f" {'.'.join(map(str, self.device.compute_capability or ()))}",
            f"{CONTEXT_BYTES >> 20} MiB for the CUDA context",
        )
        self.text_tokens = text_tokens
        self.images_per_sample = images_per_sample
        self._new_tokens = new_tokens
        assert self.device.compute_capability is not None
        self._request = RunRequest(
            config=load_config(model),
            spec=spec,
            point=Point(batch_size=1, sizes=((1, 1),)),
            mode=mode,
            dtype=dtype,
            attention=attention,
            trainable=trainable,
            gradient_checkpointing=gradient_checkpointing,
            optimizer=optimizer,
            compute_capability=self.device.compute_capability,
            torch_version=torch_version,
            cudnn_version=cudnn,
        )
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0))) if num_workers is None else num_workers
        self._workers = WorkerPool(workers, timeout=timeout)
        self._direct: dict[Point, EventLog] = {}
        self._fitted = FittedLogs()
        self._learning = RLock()

    def __enter__(self) -> DryRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def at(
        self, *, batch_size: int, max_crops: int | None = None, sizes: Sequence[tuple[int, int]] | None = None
    ) -> DryRun:
        """One run, executed or from the cache."""
        point = self._point(batch_size, max_crops, sizes)
        reading = self._kept(point, "dry run")
        if reading is None:
            reading = self._keep(point, "dry run", read(self._run(point)))
        return self._result(point, "dry run", reading)

    def table(
        self,
        max_crops: Iterable[int],
        batch_sizes: Iterable[int],
        *,
        on_progress: OnProgress | None = None,
    ) -> dict[tuple[int, int], DryRun]:
        """(max_crops, batch_size) -> what a run would use, for every pair.

        A few pairs are run. The events of the others are those of the runs, with sizes that follow from the point's
        (``_fit``), verified against runs that the sizes were not taken from; where that does not hold, they are run.

        Args:
            max_crops: values of the knob; the worst image of each.
            batch_sizes: samples.
            on_progress: told of the steps.
        """
        batches = list(dict.fromkeys(batch_sizes))
        points = {(value, batch): self._point(batch, value, None) for value in max_crops for batch in batches}
        readings = self._read_all(points.values(), _Progress(on_progress))
        return {pair: self._result(point, *readings[point]) for pair, point in points.items()}

    def frontier(
        self, max_crops: Iterable[int], *, most: int = 64, on_progress: OnProgress | None = None
    ) -> dict[int, LargestBatch]:
        """max_crops -> the largest batch that fits the device, up to `most` samples, and what binds it.

        More samples, and more crops, are taken never to need less. Runs and fits as in ``table``.

        Args:
            max_crops: values of the knob; the worst image of each.
            most: samples.
            on_progress: told of the steps.
        """
        progress = _Progress(on_progress)
        samples = {value: self._point(1, value, None) for value in sorted(set(max_crops))}
        keys = {
            value: _cache.key_of("largest batch", replace(self._request, point=sample), self._capacity, most)
            for value, sample in samples.items()
        }
        found = {value: _cache.load_json(key) for value, key in keys.items()}
        rest = {value: samples[value] for value in samples if found[value] is None}
        if rest:
            searched = self._search([*rest.values()], most, progress)
            for value, (batch, binding) in zip(rest, searched, strict=True):
                found[value] = [batch, binding if batch < most else None]
                _cache.save_json(keys[value], found[value])
        points = {value: replace(samples[value], batch_size=batch) for value, (batch, _) in found.items() if batch}
        readings = self._read_all(points.values(), progress)
        runs = {value: self._result(point, *readings[point]) for value, point in points.items()}
        return {value: LargestBatch(batch, binding, runs.get(value)) for value, (batch, binding) in found.items()}

    # -- runs --------------------------------------------------------------------------------------------------------

    def _point(self, batch_size: int, max_crops: int | None, sizes: Sequence[tuple[int, int]] | None) -> Point:
        require_arguments("dry_run", self.spec, max_crops=max_crops, batch_size=batch_size)
        if not 1 <= batch_size <= 2**20:
            raise ValueError(f"[dry_run] batch_size must be in 1..{2**20}, got {batch_size}")
        if sizes is None:
            witness = worst_case(self.spec, max_crops=max_crops).witness
            sizes = [witness] * self.images_per_sample
        if not sizes:
            raise ValueError("[dry_run] sizes must name at least one image of (height, width) pixels")
        return Point(
            batch_size=int(batch_size),
            sizes=tuple((int(height), int(width)) for height, width in sizes),
            max_crops=max_crops,
            text_tokens=self.text_tokens,
            new_tokens=self._new_tokens,
        )

    def _run(self, point: Point) -> EventLog:
        """The log of a point, which is run unless it was."""
        log = self._direct.get(point)
        if log is None:
            log = _cache.cached(replace(self._request, point=point), partial(self._workers.run, observe_in_child))
            self._direct[point] = log
        return log

    def _learn(self, points: Iterable[Point], progress: _Progress) -> None:
        """Runs as many of the points as the others can be told from."""
        wanted = {features_of(self.spec, point): point for point in points}
        with self._learning:
            while batch := design_points(list(wanted), self._fitted):
                progress.expect(len(batch))
                logs = progress.over(self._workers.map(self._run, [wanted[features] for features in batch]))
                for features, log in zip(batch, logs, strict=True):
                    self._fitted.update(features, log)

    def _told(self, point: Point) -> tuple[Evidence, EventLog]:
        """The log of a point: run before, told from others, or run now."""
        with self._learning:
            if point not in self._direct:
                log = self._fitted.at(features_of(self.spec, point))
                if log is not None:
                    return "fit of dry runs", log
            return "dry run", self._run(point)

    # -- readings ----------------------------------------------------------------------------------------------------

    def _kept(self, point: Point, evidence: Evidence) -> Reading | None:
        values = _cache.load_json(_cache.key_of("reading", replace(self._request, point=point), evidence))
        return None if values is None else Reading.from_json(values)

    def _keep(self, point: Point, evidence: Evidence, reading: Reading) -> Reading:
        _cache.save_json(_cache.key_of("reading", replace(self._request, point=point), evidence), asdict(reading))
        return reading

    def _read_all(self, points: Iterable[Point], progress: _Progress) -> dict[Point, tuple[Evidence, Reading]]:
        """What the logs of the points say, those of the cache or of runs and fits."""
        readings: dict[Point, tuple[Evidence, Reading]] = {}
        for point in points:
            for evidence in _EVIDENCES:
                if (kept := self._kept(point, evidence)) is not None:
                    readings[point] = (evidence, kept)
                    break
        rest = [point for point in dict.fromkeys(points) if point not in readings]
        if not rest:
            return readings
        progress.expect(len(rest))
        self._learn(rest, progress)

        def reading_of(point: Point) -> tuple[Evidence, Reading]:
            evidence, log = self._told(point)
            return evidence, self._keep(point, evidence, self._workers.run(read, log))

        found = progress.over(self._workers.map(reading_of, rest))
        return {**readings, **dict(zip(rest, found, strict=True))}

    # -- the frontier ------------------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> int:
        """Bytes that the allocator can have."""
        return max(0, self.device.memory_bytes - CONTEXT_BYTES)

    def _search(
        self, samples: Sequence[Point], most: int, progress: _Progress
    ) -> list[tuple[int, Literal["memory", "launch"]]]:
        """The largest batch of each sample, from the least to the most crops, and what the next breaks."""
        top = self._batch_beyond(samples[0], most, progress)
        if not top:
            return [(0, "memory")] * len(samples)
        grid = sorted({*(1 << bits for bits in range(top.bit_length())), top})
        self._learn([replace(sample, batch_size=batch) for sample in samples for batch in grid], progress)
        progress.expect(len(samples))
        return list(progress.over(self._workers.map(partial(self._largest_batch, top=top), samples)))

    def _batch_beyond(self, sample: Point, most: int, progress: _Progress) -> int:
        """A batch that does not fit, by the memory that a second sample adds, or `most`; 0 where one does not fit."""

        def in_use(batch: int) -> int:
            progress.expect(1)
            (log,) = progress.over([self._run(replace(sample, batch_size=batch))])
            return int(log.live_bytes().max(initial=0))

        one = in_use(1)
        if one > self._capacity or most < 2:
            return int(one <= self._capacity)
        more = in_use(2) - one
        return most if more <= 0 else min(most, 2 + (self._capacity - one) // more)

    def _largest_batch(self, sample: Point, top: int) -> tuple[int, Literal["memory", "launch"]]:
        """The largest batch of up to `top` samples that fits (0: none), and what the next breaks; by halves."""
        binding: Literal["memory", "launch"] = "memory"
        least, too_many, batch = 0, top + 1, top
        while too_many - least > 1:
            _, log = self._told(replace(sample, batch_size=batch))
            # What is in use at once decides most cases, without a replay.
            in_use = int(log.live_bytes().max(initial=0))
            if log.launches:
                too_many, binding = batch, "launch"
            elif in_use > self._capacity or not self._workers.run(_survives, (log, self._capacity)):
                too_many, binding = batch, "memory"
            else:
                least = batch
            batch = (least + too_many) // 2
        return least, binding

    def _result(self, point: Point, evidence: Evidence, reading: Reading) -> DryRun:
        images = _layouts(self.spec, point)
        return DryRun(
            **vars(reading),
            model_type=str(self._request.config["model_type"]),
            spec_key=self.spec.key,
            mode=self._request.mode,
            batch_size=point.batch_size,
            max_crops=point.max_crops,
            sizes=point.sizes,
            num_crops=sum(image.num_crops for image in images),
            sequence_length=sum(image.sequence_tokens for image in images) + point.text_tokens,
            device=self.device,
            dtype=self._request.dtype,
            latency_ms=_latency_ms(reading, self.device, self._request.dtype),
            evidence=evidence,
            assumptions=self._assumptions,
        )


class _Progress:
    """Steps done and to do, for whoever wants to be told."""

    def __init__(self, tell: OnProgress | None) -> None:
        self._tell = tell
        self._done = self._total = 0

    def expect(self, steps: int) -> None:
        self._total += steps
        self._say()

    def over(self, steps: Iterable[Any]) -> Iterator[Any]:
        """The steps, counted as they are done."""
        for step in steps:
            self._done += 1
            self._say()
            yield step

    def _say(self) -> None:
        if self._tell is not None:
            self._tell(self._done, self._total)


@cache
def _layouts(spec: Spec, point: Point) -> tuple[Layout, ...]:
    """Of a sample's images."""
    return tuple(layout(spec, height=h, width=w, max_crops=point.max_crops) for h, w in point.sizes)


def _survives(of: tuple[EventLog, int]) -> bool:
    """Whether the allocator survives a log (of[0]) with a device's memory (of[1], bytes)."""
    log, capacity = of
    return replay(log, capacity=capacity).fits


def dry_run(
    model: Any,
    spec: Spec,
    *,
    batch_size: int = 1,
    max_crops: int | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    **settings: Any,
) -> DryRun:
    """What a model would use on a GPU: memory by category, FLOPs, and launches that break a limit. Needs no GPU.

    The model's own code of transformers runs, on weights that have shapes and no memory; ids, masks, grids and index
    tensors are real and come from the spec's layout. Shapes and lives of tensors are exact, and so is the memory that
    they ask for; what CUDA's kernels take for themselves, which kernel is chosen and how the caching allocator
    fragments are modelled (_temporaries.py, _attention.py and _allocator.py in planning/dryrun say from which sources).
    It runs in a child process, some seconds a point, and is kept in a cache on disk (MAXCROPS_CACHE).

    Args:
        model: a folder with ``config.json``, a configuration (a dict or a transformers object), or the name of one that
            is shipped (``list_configs``). No weights are needed.
        spec: from ``get_spec`` or ``load_spec``: how its images are cut.
        batch_size: samples.
        max_crops: the knob, in local crops; the spec's setting where None. The image is the one that the bound's
            witness names: the worst.
        sizes: (height, width) of the images of each sample instead, pixels.
        settings: ``device`` ("h100", "a100-80gb", "24GB", a Device; "h100"), ``mode`` ("prefill", "generate", "train"),
            ``text_tokens`` (512, of each sample), ``new_tokens`` (32, in mode "generate"), ``images_per_sample`` (1),
            ``dtype`` ("bfloat16", "float16", "float32"), ``attention`` ("sdpa", "eager", "flash_attention_2"),
            ``trainable`` ("all", "frozen_vision", "connector"), ``gradient_checkpointing`` (False), ``optimizer``
            ("adamw_foreach", "adamw_fused", "none"), ``torch_version`` ("2.13"), ``cudnn_version`` ("bundled": that of
            torch's wheel; a triple; None), ``timeout`` (600 s a run), ``num_workers``.

    Raises:
        UnsupportedError: a model whose class or inputs are not known, or torch is not installed.
        ConfigError: a configuration that its class rejects.
        DryRunError: the run crashed, or took too long.
        TypeError, ValueError: an argument of the wrong type or range.
    """
    with DryRuns(model, spec, **settings) as runs:
        return runs.at(batch_size=batch_size, max_crops=max_crops, sizes=sizes)


def _latency_ms(reading: Reading, device: Device, dtype: str) -> float | None:
    """A roofline by part of the model: its arithmetic or its traffic, whichever takes longer, and the launches."""
    if not device.dense_flops or device.bandwidth_bytes_per_second is None:
        return None
    rate = device.dense_flops[dtype] * _FLOPS_EFFICIENCY
    bandwidth = device.bandwidth_bytes_per_second * _BANDWIDTH_EFFICIENCY
    parts = dict.fromkeys([*reading.flops, *reading.traffic_bytes])  # in one order: a sum of floats depends on it
    seconds = sum(
        max(reading.flops.get(part, 0) / rate, reading.traffic_bytes.get(part, 0) / bandwidth) for part in parts
    )
    return 1e3 * max(seconds, reading.num_operators * _LAUNCH_SECONDS)
