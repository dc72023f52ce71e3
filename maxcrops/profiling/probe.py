"""``probe``: a real model run for real, each point in a process of its own.

A run that is out of memory, that CUDA refuses, that hangs or crashes is a result: one row with a label. After it the
next point has a process, and on a GPU a context, that know nothing of it.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias

from maxcrops._arguments import require_arguments
from maxcrops._bounds import worst_case
from maxcrops._layout import layout
from maxcrops.data import read_size
from maxcrops.exceptions import ConfigError, MaxCropsError, UnsupportedError
from maxcrops.planning.dryrun import DryRuns
from maxcrops.planning.dryrun._configs import load_config
from maxcrops.planning.dryrun._inputs import FAMILIES
from maxcrops.planning.dryrun._request import Attention, Dtype, Mode, Optimizer, Point, RunRequest, Trainable
from maxcrops.planning.dryrun._worker import Worker
from maxcrops.profiling._child import Measure, Place, call, find_place
from maxcrops.profiling._probe_child import PointRequest, measure
from maxcrops.profiling.batch_search import BatchSearch, Label, Trial, search_batch
from maxcrops.profiling.harness import environment
from maxcrops.specs import Spec, get_spec
from maxcrops.specs.loading import load_spec

ImageLike: TypeAlias = "str | PathLike[str] | tuple[int, int]"


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """One point, and what became of it. What a run that failed did not come to is None."""

    max_crops: int
    batch_size: int
    sequence_length: int
    """Tokens of one sample's prompt, text included."""
    label: Label
    """"ok"; "out_of_memory"; "launch_failure": CUDA refused a launch; "timeout"; "crashed": the process ended by a
    signal, or a kernel faulted; "error": the model raised another error."""
    message: str = ""
    """Why it failed, in one line."""
    first_seconds: float | None = None
    """Of the first run, which loads kernels and fills caches."""
    warm_seconds: float | None = None
    """Median of the runs after it."""
    warm_seconds_p20: float | None = None
    warm_seconds_p80: float | None = None
    tokens_per_second: float | None = None
    """Tokens of the batch, those that are generated included, in a warm run."""
    allocated_bytes: int | None = None
    """On a GPU: as ``torch.cuda.max_memory_allocated``."""
    reserved_bytes: int | None = None
    """On a GPU: as ``torch.cuda.max_memory_reserved``."""
    peak_rss_bytes: int | None = None
    """On the CPU: most that was resident of the process while it ran the model, imports included."""
    used_bytes: int | None = None
    """Most of what ``capacity_bytes`` bounds: on a GPU what was allocated; on the CPU, beyond the imports, what was
    resident or, with a limit, address space."""
    fixed_bytes: int | None = None
    """What of it does not grow with the batch: weights, and in training gradients and the optimizer's states."""
    capacity_bytes: int | None = None
    """What was free, or the limit."""
    preprocess_seconds: float | None = None
    """Of the batch's images, by ``Preprocessor``; None where it does not make the family's pixels."""
    seconds: float = 0.0
    """Of the whole point: its process, imports and the model's building included."""


COLUMNS = tuple(column.name for column in fields(ProbeRow))
"""Of a row."""


@dataclass(frozen=True, repr=False)
class Probe:
    """What was measured, and of what."""

    model: str
    model_type: str
    spec_key: str
    mode: Mode
    device: str
    """Its name."""
    dtype: str
    attention: str
    weights: Literal["loaded", "random"]
    text_tokens: int
    notes: tuple[str, ...]
    """What a reader of the numbers must know, in words."""
    environment: Mapping[str, str]
    """CPU, versions, load, date: as of the benchmarks."""
    rows: tuple[ProbeRow, ...]
    """In the order that they were run in."""
    batches: Mapping[int, BatchSearch] = field(default_factory=dict)
    """max_crops -> the largest batch that worked, where it was looked for."""

    @property
    def succeeded(self) -> bool:
        """Whether any point did."""
        return any(row.label == "ok" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "succeeded": self.succeeded}

    def records(self) -> list[dict[str, Any]]:
        """A flat dict per row, with what they share behind each."""
        shared = {
            name: getattr(self, name)
            for name in ("model", "model_type", "spec_key", "mode", "device", "dtype", "attention", "weights")
        }
        return [{**asdict(row), **shared, "text_tokens": self.text_tokens, **self.environment} for row in self.rows]

    def write_jsonl(self, path: str | PathLike[str]) -> None:
        """A JSON object per line and row."""
        with Path(path).open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(record) + "\n" for record in self.records())

    def write_csv(self, path: str | PathLike[str]) -> None:
        """A line per row, under the names of its columns; what is None is empty."""
        records = self.records()
        with Path(path).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(records[0]) if records else COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)

    def __repr__(self) -> str:
        worked = sum(row.label == "ok" for row in self.rows)
        return f"Probe({self.model_type} {self.mode} on {self.device}: {worked} of {len(self.rows)} points succeeded)"


OnRow: TypeAlias = Callable[[ProbeRow], None]


def probe(
    model: str | PathLike[str],
    spec: Spec | None = None,
    *,
    max_crops: int | Iterable[int] | None = None,
    batch_size: int | Iterable[int] = 1,
    auto_adjust_batch_size: bool = False,
    max_batch_size: int = 256,
    max_trials: int = 5,
    mode: Mode = "prefill",
    images: Sequence[ImageLike] | None = None,
    images_per_sample: int = 1,
    text_tokens: int = 512,
    new_tokens: int = 32,
    device: str = "auto",
    dtype: Dtype | None = None,
    attention: Attention = "sdpa",
    trainable: Trainable = "all",
    gradient_checkpointing: bool = False,
    optimizer: Optimizer = "adamw_foreach",
    memory_limit: int | None = None,
    repeats: int = 5,
    timeout: float = 600,
    on_row: OnRow | None = None,
) -> Probe:
    """Latency and memory of a real model on this machine, at each value of max_crops and each batch size.

    Every point has a process of its own, which builds the model, runs it once cold and `repeats` times warm, and ends.
    Ids, masks, grids and index tensors are those of the images' layouts, and pixels are ones: neither time nor memory
    depends on them. On the GPU nothing of this has been run yet.

    Args:
        model: a folder with ``config.json``, and with weights or without; or the name of a shipped configuration.
            Without weights they are random, which changes neither time nor memory.
        spec: how its images are cut; None: as the folder, or the name, says.
        max_crops: the knob, in local crops; one value or several, the spec's own where None.
        batch_size: samples; one number or several. With auto_adjust_batch_size the one that is expected to work, where
            no dry run can tell.
        auto_adjust_batch_size: look for the largest batch of each value instead, from what a dry run predicts (on a
            GPU) or from batch_size, in at most `max_trials` points; ``search_batch`` describes how. On the CPU it
            needs a memory_limit.
        max_batch_size: samples beyond which it is not looked for.
        max_trials: points that a search may take.
        mode: "prefill", a prompt; "generate", a prompt and `new_tokens`; "train", a step.
        images: of each sample: files, whose sizes are read, or (height, width) in pixels. None: the worst image of
            each max_crops, as the bound's witness names it.
        images_per_sample: so many of them, where `images` is None.
        text_tokens: of each sample, beside its image tokens.
        new_tokens: decoded in mode "generate".
        device: "auto", "cpu", "cuda", "cuda:1".
        dtype: of the weights; None: bfloat16 on a GPU, float32 on the CPU.
        attention: "sdpa", "eager" or "flash_attention_2", whose package must be installed.
        trainable, gradient_checkpointing, optimizer: in mode "train", as for ``dry_run``.
        memory_limit: bytes that a point may take. On a GPU of its caching allocator; on the CPU of address space
            beyond what the imports take (RLIMIT_AS, Linux only), in which mapped files of weights count too.
        repeats: warm runs, at least 1.
        timeout: seconds that a point may take, its imports and the model's building included.
        on_row: called with each row when it is there.

    Returns:
        A Probe: rows in the order that they were run in, and with auto_adjust_batch_size the largest batches.

    Raises:
        UnsupportedError: a model whose inputs are not known, no such device, or torch is not installed.
        ConfigError: a configuration that cannot be read, or a spec of another family.
        UnknownSpecError, FileNotFoundError: no such model.
        ImageReadError: a file of `images` has no size.
        DryRunError: the process that asks torch for its devices crashed, or took longer than `timeout`.
        TypeError, ValueError: an argument of the wrong type or range.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise UnsupportedError(f"[probe] {package} must be installed: pip install 'maxcrops[transformers]'")
    config, spec = _model_of(model, spec)
    values = _several("max_crops", spec.max_crops if max_crops is None else max_crops)
    batches = _several("batch_size", batch_size)
    for name, value in (
        ("images_per_sample", images_per_sample),
        ("text_tokens", text_tokens),
        ("new_tokens", new_tokens),
        ("max_batch_size", max_batch_size),
        ("max_trials", max_trials),
        ("repeats", repeats),
        ("memory_limit", 1 if memory_limit is None else memory_limit),
    ):
        require_arguments("probe", spec, **{name: value})
        if value < 1:
            raise ValueError(f"[probe] {name} must be at least 1, got {value}")
    for name, choice, known in (
        ("mode", mode, ("prefill", "generate", "train")),
        ("dtype", dtype, ("bfloat16", "float16", "float32", None)),
        ("attention", attention, ("sdpa", "eager", "flash_attention_2")),
        ("trainable", trainable, ("all", "frozen_vision", "connector")),
        ("optimizer", optimizer, ("adamw_foreach", "adamw_fused", "none")),
    ):
        if choice not in known:
            raise ValueError(f"[probe] {name} must be one of {', '.join(map(str, known))}, got {choice!r}")
    sizes, files = _images_of(images)
    place = find_place(device, timeout=timeout, operation="probe")
    if place.device == "cpu" and memory_limit is not None and sys.platform != "linux":
        raise UnsupportedError("[probe] memory_limit must be left out on the CPU of other systems than Linux")
    if place.device == "cpu" and memory_limit is None and auto_adjust_batch_size:
        raise ValueError(
            "[probe] memory_limit must be given with auto_adjust_batch_size on the CPU, got None: a search for the end"
            " of the memory would take the system's, and other processes with it"
        )
    weights = weights_of(model, config)
    request = PointRequest(
        run=RunRequest(
            config=config,
            spec=spec,
            point=Point(batch_size=1, sizes=((1, 1),), text_tokens=text_tokens, new_tokens=new_tokens),
            mode=mode,
            dtype=dtype or ("float32" if place.device == "cpu" else "bfloat16"),
            attention=attention,
            trainable=trainable,
            gradient_checkpointing=gradient_checkpointing,
            optimizer=optimizer,
        ),
        device=place.device,
        weights=weights,
        files=files,
        memory_limit=memory_limit,
        repeats=repeats,
    )
    requests = {value: _at(request, value, sizes, images_per_sample) for value in values}
    notes = (
        [] if weights else ["random weights: the model's answers mean nothing; time and memory do not depend on them"]
    )
    machine = environment()  # the load before the runs
    points = _Points(timeout=timeout, on_row=on_row)
    searches: dict[int, BatchSearch] = {}
    if auto_adjust_batch_size:
        predictions = _predict(requests, place, max_batch_size, batches[0], notes)
        for value, of_value in requests.items():
            predicted, launch_limit = predictions[value]
            searches[value] = search_batch(
                partial(points.trial, of_value),
                predicted=predicted,
                most=max_batch_size,
                launch_limit=launch_limit,
                max_trials=max_trials,
            )
    else:
        for of_value in requests.values():
            for batch in batches:
                points.run(_with_batch(of_value, batch))
    return Probe(
        model=fspath(model),
        model_type=str(config["model_type"]),
        spec_key=spec.key,
        mode=mode,
        device=place.name,
        dtype=request.run.dtype,
        attention=attention,
        weights="loaded" if weights else "random",
        text_tokens=text_tokens,
        notes=tuple(notes),
        environment=machine,
        rows=tuple(points.rows),
        batches=searches,
    )


# -- points --------------------------------------------------------------------------------------------------------


class _Points:
    """Runs points, each in a process of its own, and keeps their rows.

    Args:
        timeout: seconds of one.
        measure: a function of a module, which the process imports by name.
        on_row: told of each row.
    """

    def __init__(
        self, *, timeout: float, measure: Measure[PointRequest] = measure, on_row: OnRow | None = None
    ) -> None:
        self.rows: list[ProbeRow] = []
        self._timeout = timeout
        self._measure = measure
        self._on_row = on_row

    def run(self, request: PointRequest) -> ProbeRow:
        run, started = request.run, time.perf_counter()
        with Worker(timeout=self._timeout, operation="probe", one_thread=False) as worker:
            label, message, taken = call(worker, self._measure, request)
        point = run.point
        images = [layout(run.spec, height=h, width=w, max_crops=point.max_crops) for h, w in point.sizes]
        assert point.max_crops is not None
        row = ProbeRow(
            max_crops=point.max_crops,
            batch_size=point.batch_size,
            sequence_length=sum(image.sequence_tokens for image in images) + point.text_tokens,
            label=label,
            message=message,
            seconds=time.perf_counter() - started,
            **taken,
        )
        self.rows.append(row)
        if self._on_row is not None:
            self._on_row(row)
        return row

    def trial(self, request: PointRequest, batch_size: int) -> Trial:
        """The same with a batch of so many samples, as a search has it."""
        row = self.run(_with_batch(request, batch_size))
        return Trial(row.batch_size, row.label, row.used_bytes, row.fixed_bytes, row.capacity_bytes)


def _at(
    request: PointRequest, max_crops: int, sizes: tuple[tuple[int, int], ...] | None, images_per_sample: int
) -> PointRequest:
    spec = request.run.spec
    if sizes is None:
        sizes = (worst_case(spec, max_crops=max_crops).witness,) * images_per_sample
    for height, width in sizes:
        layout(spec, height=height, width=width, max_crops=max_crops)  # raises for what no process need be asked
    return replace(
        request, run=replace(request.run, point=replace(request.run.point, sizes=sizes, max_crops=max_crops))
    )


def _with_batch(request: PointRequest, batch_size: int) -> PointRequest:
    return replace(request, run=replace(request.run, point=replace(request.run.point, batch_size=batch_size)))


# -- what is asked for ---------------------------------------------------------------------------------------------


def _model_of(model: str | PathLike[str], spec: Spec | None) -> tuple[dict[str, Any], Spec]:
    """The configuration, and the spec of its family."""
    if not isinstance(model, (str, PathLike)):
        raise TypeError(f"[probe] model must be a folder or a name, got {type(model).__name__}")
    config = load_config(model)
    model_type = config["model_type"]
    if model_type not in FAMILIES:
        raise UnsupportedError(
            f"[probe] model_type must be one of {', '.join(FAMILIES)}, whose inputs are known, got {model_type!r}"
        )
    if spec is None:
        spec = load_spec(model) if Path(model).exists() else get_spec(str(model))
    if not isinstance(spec, Spec):
        raise TypeError(f"[probe] spec must be a Spec (get_spec or load_spec makes one), got {spec!r}")
    if spec.family != model_type:
        raise ConfigError(
            f"[probe] spec must be of the model's family, {model_type}, got {spec.key!r} of family {spec.family};"
            " leave it out to have it read from the model's folder"
        )
    return config, spec


def _images_of(images: Sequence[ImageLike] | None) -> tuple[tuple[tuple[int, int], ...] | None, tuple[str, ...]]:
    """Sizes of a sample's images, None for the worst; and the files where they are files."""
    if images is None:
        return None, ()
    if not images:
        raise ValueError("[probe] images must be at least one, got none; leave it out for the worst image")
    files = tuple(fspath(image) for image in images if not isinstance(image, tuple))
    if files and len(files) < len(images):
        raise TypeError("[probe] images must be files or sizes, got both")
    return tuple(image if isinstance(image, tuple) else read_size(image) for image in images), files


def weights_of(model: str | PathLike[str], config: Mapping[str, Any]) -> str | None:
    """The folder, if it has weights that are loaded."""
    folder = Path(model)
    # The first Molmo's lie under the names of its own code.
    if config["model_type"] == "molmo" or not folder.is_dir():
        return None
    found = any(True for pattern in ("model*.safetensors", "pytorch_model*.bin") for _ in folder.glob(pattern))
    return fspath(folder) if found else None


def _several(name: str, value: int | Iterable[int]) -> list[int]:
    """One number or several, each once, in order."""
    numbers = list(dict.fromkeys(value if isinstance(value, Iterable) else [value]))
    for number in numbers:
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"[probe] {name} must be an integer or several, got {number!r}")
        if number < 1:
            raise ValueError(f"[probe] {name} must be at least 1, got {number}")
    if not numbers:
        raise ValueError(f"[probe] {name} must be at least one integer, got none")
    return [int(number) for number in numbers]


def _predict(
    requests: Mapping[int, PointRequest], place: Place, most: int, otherwise: int, notes: list[str]
) -> dict[int, tuple[int, int | None]]:
    """max_crops -> the largest batch that a dry run expects to work, and that which every launch passes, if known."""
    guesses: dict[int, tuple[int, int | None]] = dict.fromkeys(requests, (min(otherwise, most), None))
    if place.memory_bytes is None:
        notes.append(f"the search begins at the batch size that was given, {otherwise}: a dry run models GPUs alone")
        return guesses
    any_request = next(iter(requests.values()))
    run, limit = any_request.run, any_request.memory_limit
    device = place.as_device(limit)
    try:
        with DryRuns(
            run.config,
            run.spec,
            device=device,
            mode=run.mode,
            text_tokens=run.point.text_tokens,
            new_tokens=run.point.new_tokens,
            images_per_sample=len(run.point.sizes),
            dtype=run.dtype,
            attention=run.attention,
            trainable=run.trainable,
            gradient_checkpointing=run.gradient_checkpointing,
            optimizer=run.optimizer,
        ) as runs:
            found = runs.frontier(requests, most=most)
    except MaxCropsError as error:
        notes.append(f"the search begins at the batch size that was given, {otherwise}: no dry run, as {error}")
        return guesses
    return {
        value: (max(1, largest.batch_size), largest.batch_size if largest.binding == "launch" else None)
        for value, largest in found.items()
    }
