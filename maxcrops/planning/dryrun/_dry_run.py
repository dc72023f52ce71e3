"""``dry_run``: what a model would use on a GPU, read off a run on weights that have no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from maxcrops._arguments import require_arguments
from maxcrops._bounds import worst_case
from maxcrops._layout import layout
from maxcrops.exceptions import UnsupportedError
from maxcrops.planning.devices import Device, get_device
from maxcrops.planning.dryrun import _cache
from maxcrops.planning.dryrun._allocator import peak, replay, smallest_capacity
from maxcrops.planning.dryrun._configs import load_config
from maxcrops.planning.dryrun._events import Category, EventLog, Launch, Phase
from maxcrops.planning.dryrun._request import Attention, Mode, Optimizer, Point, RunRequest, Trainable
from maxcrops.planning.dryrun._worker import Worker

if TYPE_CHECKING:
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


@dataclass(frozen=True, repr=False)
class DryRun:
    """What one run would use. Bytes unless a name says otherwise."""

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
    latency_ms: float | None
    """An estimate by roofline, of all that was run (a prompt, a prompt and its new tokens, a training step); None where
    the device's rates are not known."""
    launches: tuple[Launch, ...]
    """Those that break a limit of CUDA."""
    attention_kernels: tuple[str, ...]
    evidence: Literal["dry run"]
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


class DryRuns:
    """A model under one way of running it, at any size. A context manager; it keeps one child process for its runs.

    Arguments as for ``dry_run``, which describes them.
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
    ) -> None:
        from maxcrops.planning.dryrun._attention import bundled_cudnn

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
        cudnn_words = ".".join(map(str, cudnn)) if cudnn else "no cuDNN attention"
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
        self._worker = Worker(timeout=timeout)

    def __enter__(self) -> DryRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def at(
        self, *, batch_size: int, max_crops: int | None = None, sizes: Sequence[tuple[int, int]] | None = None
    ) -> DryRun:
        """One run, executed or from the cache."""
        point = self._point(batch_size, max_crops, sizes)
        return self._result(point, self._log(point))

    def table(
        self,
        max_crops: Iterable[int],
        batch_sizes: Iterable[int],
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[tuple[int, int], DryRun]:
        """(max_crops, batch_size) -> what a run would use, for every pair; each is run once and kept in the cache.

        Args:
            max_crops: values of the knob; the worst image of each.
            batch_sizes: samples.
            on_progress: called with the number of runs done and the number to do.
        """
        batches = list(dict.fromkeys(batch_sizes))
        pairs = [(value, batch) for value in dict.fromkeys(max_crops) for batch in batches]
        table = {}
        for done, (value, batch) in enumerate(pairs):
            if on_progress is not None:
                on_progress(done, len(pairs))
            table[value, batch] = self.at(batch_size=batch, max_crops=value)
        if on_progress is not None:
            on_progress(len(pairs), len(pairs))
        return table

    def largest_batch(self, max_crops: int, *, most: int = 256) -> DryRun | None:
        """The run of the largest batch that fits the device, up to `most`; None where one sample does not.

        More samples are taken never to need less: the batch is doubled until it does not fit, then halved in between.
        """
        best: DryRun | None = None
        batch, too_many = 1, most + 1
        while batch < too_many:
            run = self.at(batch_size=batch, max_crops=max_crops)
            if run.fits:
                best = run
            else:
                too_many = batch
            fitting = best.batch_size if best else 0
            batch = min(2 * fitting, most) if too_many > most else (fitting + too_many) // 2
            if batch <= fitting:
                break
        return best

    # -- steps -------------------------------------------------------------------------------------------------------

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

    def _log(self, point: Point) -> EventLog:
        return _cache.cached(replace(self._request, point=point), self._worker.observe)

    def _result(self, point: Point, log: EventLog) -> DryRun:
        most = peak(log)
        images = [layout(self.spec, height=h, width=w, max_crops=point.max_crops) for h, w in point.sizes]
        return DryRun(
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
            peak_bytes=most.bytes,
            peak_by_category=most.by_category,
            peak_operator=most.operator,
            peak_module=most.module,
            peak_phase=most.phase,
            reserved_bytes=replay(log).reserved_peak,
            smallest_bytes=smallest_capacity(log),
            smallest_bytes_expandable=smallest_capacity(log, expandable_segments=True),
            flops=log.flops,
            latency_ms=_latency_ms(log, self.device, self._request.dtype),
            launches=log.launches,
            attention_kernels=log.attention_kernels,
            evidence="dry run",
            assumptions=self._assumptions,
        )


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
    fragments are modelled (planning/dryrun/_attention.py and _allocator.py say from which sources). It runs in a child
    process, some seconds a point, and is kept in a cache on disk (MAXCROPS_CACHE).

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
            torch's wheel; a triple; None), ``timeout`` (600 s a run).

    Raises:
        UnsupportedError: a model whose class or inputs are not known, or torch is not installed.
        ConfigError: a configuration that its class rejects.
        DryRunError: the run crashed, or took too long.
        TypeError, ValueError: an argument of the wrong type or range.
    """
    with DryRuns(model, spec, **settings) as runs:
        return runs.at(batch_size=batch_size, max_crops=max_crops, sizes=sizes)


def _latency_ms(log: EventLog, device: Device, dtype: str) -> float | None:
    """A roofline by part of the model: its arithmetic or its traffic, whichever takes longer, and the launches."""
    if not device.dense_flops or device.bandwidth_bytes_per_second is None:
        return None
    rate = device.dense_flops[dtype] * _FLOPS_EFFICIENCY
    bandwidth = device.bandwidth_bytes_per_second * _BANDWIDTH_EFFICIENCY
    parts = {*log.flops, *log.traffic_bytes}
    seconds = sum(max(log.flops.get(part, 0) / rate, log.traffic_bytes.get(part, 0) / bandwidth) for part in parts)
    return 1e3 * max(seconds, log.num_operators * _LAUNCH_SECONDS)
