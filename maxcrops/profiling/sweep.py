"""``sweep``: a real model's accuracy, latency and memory on a dataset, at each of several max_crops.

Each point has a process of its own, as a probe's has, and every batch that it answers goes to a journal on disk before
the next is begun. So a point that fails is a row, and a run that is killed goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from maxcrops._arguments import require_arguments
from maxcrops._bounds import worst_case
from maxcrops._counting import count_tokens
from maxcrops.data.questions import BadRow, Question, read_questions
from maxcrops.exceptions import ConfigError, MaxCropsError, UnboundedError, UnsupportedError
from maxcrops.planning.dryrun import dry_run
from maxcrops.planning.dryrun._configs import load_config
from maxcrops.planning.dryrun._inputs import FAMILIES
from maxcrops.planning.dryrun._request import Attention, Dtype
from maxcrops.planning.dryrun._worker import Worker
from maxcrops.profiling import _sweep_child
from maxcrops.profiling._child import Place, Taken, call, find_place
from maxcrops.profiling._journal import Journal
from maxcrops.profiling._sweep_child import QUESTION, SweepSetup
from maxcrops.profiling.batch_search import Label
from maxcrops.profiling.harness import environment
from maxcrops.profiling.metrics import Metric, get_metric
from maxcrops.profiling.probe import probe, weights_of
from maxcrops.profiling.report import write_report
from maxcrops.profiling.statistics import Interval, find_knee, interval, resample
from maxcrops.profiling.sweep_result import Sweep, SweepRow
from maxcrops.specs import Spec, knob_of
from maxcrops.specs.loading import load_spec

PathOrName: TypeAlias = "str | PathLike[str]"


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep is."""

    max_crops: int
    done: int
    """Questions that need no more work at all points, those of an earlier run included; a point that failed is done
    with all of its."""
    total: int
    note: str = ""
    """What was just done, in words."""


OnProgress: TypeAlias = Callable[[SweepProgress], None]


def sweep(
    model: PathOrName,
    data: PathOrName,
    *,
    max_crops: Iterable[int],
    out: str | PathLike[str],
    spec: Spec | None = None,
    batch_size: int = 1,
    auto_adjust_batch_size: bool = False,
    max_batch_size: int = 256,
    max_trials: int = 5,
    metric: str | Metric = "vqa",
    prompt: str = QUESTION,
    new_tokens: int = 16,
    text_tokens: int = 128,
    image: str = "image",
    question: str = "question",
    answers: str = "answers",
    limit: int | None = None,
    device: str = "auto",
    dtype: Dtype | None = None,
    attention: Attention = "sdpa",
    memory_limit: int | None = None,
    timeout: float = 600,
    resamples: int = 2000,
    level: float = 0.95,
    tolerance: float = 0.01,
    seed: int = 0,
    retry_failed: bool = False,
    report: bool = True,
    on_progress: OnProgress | None = None,
) -> Sweep:
    """Accuracy, latency and memory of a real model on a dataset, at each of several max_crops.

    Answers are generated greedily, batch by batch in the dataset's order, so that the same call gives the same answers.
    Each batch is written to ``journal.jsonl`` in `out` when it is done: a call with the same settings goes on from
    there, and may have other max_crops, metric, resamples, level or tolerance. A point that fails is a row with a
    label; a question whose image cannot be read or prepared counts at no point, and is reported.

    Args:
        model: a folder with weights, a processor and a tokenizer, as ``from_pretrained`` reads them.
        data: JSONL, Parquet or a folder of Hugging Face ``datasets``; see ``maxcrops.data.read_questions``.
        max_crops: values of the knob, in local crops.
        out: a folder for the journal and the results.
        spec: how its images are cut; None: as the folder says.
        batch_size: questions that are answered at once. With auto_adjust_batch_size, where the search begins.
        auto_adjust_batch_size: have ``probe`` look for the largest batch of worst images first, for each max_crops; and
            halve it where the dataset runs out of memory all the same. On the CPU it needs a memory_limit.
        max_batch_size, max_trials: of that search.
        metric: "vqa" (VQA v2's soft accuracy), "exact", "anls"; a function of (answer, answers), or where one is, as
            "module:function" or "file.py:function".
        prompt: what is asked, with {question} in it. Put into the processor's chat template behind the image; without
            a template it is the whole text, and must hold the image's placeholder itself.
        new_tokens: most that an answer may have.
        text_tokens: of a prompt beside its image, as the search for a batch and the prediction of memory assume them.
        image, question, answers: the data's columns.
        limit: questions, from the first on; None: all.
        device: "auto", "cpu", "cuda", "cuda:1".
        dtype: of the weights; None: bfloat16 on a GPU, float32 on the CPU.
        attention: "sdpa", "eager" or "flash_attention_2", whose package must be installed.
        memory_limit: bytes that a point may take, as of ``probe``.
        timeout: seconds that loading the model or one batch may take.
        resamples: of the bootstrap, which draws questions.
        level: of its confidence limits.
        tolerance: accuracy, of 1, that a larger max_crops must gain for the knee not to lie below it.
        seed: of the bootstrap.
        retry_failed: run points again that failed before; what they had answered is kept.
        report: whether to write report.html and report.png beside the tables; needs matplotlib.
        on_progress: called when a batch is done.

    Returns:
        A Sweep, also written to `out`: its tables by ``Sweep.write``, and the report.

    Raises:
        UnsupportedError: no such device, a model that takes no images or whose processors have no knob, or whose batch
            cannot be looked for; or a package is not installed.
        ConfigError: a folder without weights, or whose configuration cannot be read; `out` has a journal of a run with
            other settings, or another process writes it.
        UnknownSpecError, FileNotFoundError: no such model, or no such data.
        DryRunError: the process that asks torch for its devices crashed, or took longer than `timeout`.
        TypeError, ValueError: an argument of the wrong type or range, or data without a usable row.
        ImportError: matplotlib is missing and a report is asked for.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise UnsupportedError(f"[sweep] {package} must be installed: pip install 'maxcrops[transformers]'")
    if report and find_spec("matplotlib") is None:
        raise ImportError("[sweep] a report needs matplotlib: pip install 'maxcrops[plot]', or leave it out")
    if QUESTION not in prompt:
        raise ValueError(f"[sweep] prompt must have {QUESTION} in it, got {prompt!r}")
    score = get_metric(metric)
    config = load_config(model)
    spec = load_spec(model) if spec is None else spec
    values = _values(spec, max_crops)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("max_batch_size", max_batch_size, 1),
        ("max_trials", max_trials, 1),
        ("new_tokens", new_tokens, 1),
        ("text_tokens", text_tokens, 1),
        ("memory_limit", 1 if memory_limit is None else memory_limit, 1),
        ("resamples", resamples, 1),
        ("seed", seed, 0),
    ):
        require_arguments("sweep", spec, **{name: value})
        if value < least:
            raise ValueError(f"[sweep] {name} must be at least {least}, got {value}")
    for name, choice, known in (
        ("dtype", dtype, ("bfloat16", "float16", "float32", None)),
        ("attention", attention, ("sdpa", "eager", "flash_attention_2")),
    ):
        if choice not in known:
            raise ValueError(f"[sweep] {name} must be one of {', '.join(map(str, known))}, got {choice!r}")
    if not timeout > 0:
        raise ValueError(f"[sweep] timeout must be above 0 seconds, got {timeout!r}")
    for name, part in (("level", level), ("tolerance", tolerance)):
        if not 0 <= part < 1:
            raise ValueError(f"[sweep] {name} must be from 0 to below 1, got {part!r}")
    if auto_adjust_batch_size and config["model_type"] not in FAMILIES:
        raise UnsupportedError(
            f"[sweep] auto_adjust_batch_size must be left out for model_type {config['model_type']!r}: probe knows the"
            f" inputs of {', '.join(FAMILIES)}; give batch_size"
        )
    if weights_of(model, config) is None:
        raise ConfigError(f"[sweep] model must be a folder with weights that are loaded, got {fspath(model)!r}")
    place = find_place(device, timeout=timeout, operation="sweep")
    _check_limit(place, memory_limit, auto_adjust_batch_size)
    dataset = read_questions(data, image=image, question=question, answers=answers, limit=limit)
    setup = SweepSetup(
        model=fspath(model),
        spec=spec,
        max_crops=values[0],
        device=place.device,
        dtype=dtype or ("float32" if place.device == "cpu" else "bfloat16"),
        attention=attention,
        prompt=prompt,
        new_tokens=new_tokens,
        memory_limit=memory_limit,
    )
    settings = {
        "model": _identity(Path(model)),
        "spec": {"key": spec.key, **spec.fields(), **spec.chosen},
        "data": dataset.fingerprint,
        "batch_size": batch_size,
        "auto_adjust_batch_size": auto_adjust_batch_size,
        "device": place.name,
        **{name: getattr(setup, name) for name in ("dtype", "attention", "prompt", "new_tokens", "memory_limit")},
        **{package: metadata.version(package) for package in ("torch", "transformers")},
    }
    machine = environment()  # the load before the runs
    notes: list[str] = []
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    search = _Search(batch_size, auto_adjust_batch_size, max_batch_size, max_trials, text_tokens, timeout)
    with Journal(folder / "journal.jsonl", settings, operation="sweep") as journal:
        run = _Run(setup, dataset.rows, journal, timeout=timeout, total=len(values), on_progress=on_progress)
        for value in values:
            run.point(value, search, retry_failed=retry_failed)
        points = {value: run.points[value] for value in values}
    predicted = {
        value: _predicted_bytes(replace(setup, max_crops=value), point, place, text_tokens, notes)
        for value, point in points.items()
    }
    result = Sweep(
        model=fspath(model),
        spec_key=spec.key,
        data=fspath(data),
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric)),
        device=place.name,
        dtype=setup.dtype,
        attention=attention,
        prompt=prompt,
        new_tokens=new_tokens,
        questions=len(dataset.rows),
        level=level,
        environment=machine,
        images={row.row: row for row in dataset.rows}.__getitem__,
        **_judged(points, dataset.rows, dataset.bad, score, spec, predicted, notes, resamples, level, tolerance, seed),
    )
    result.write(folder)
    if report:
        write_report(result, folder)
    return result


# -- points --------------------------------------------------------------------------------------------------------


@dataclass
class _Point:
    """What the journal knows of one max_crops."""

    batch_size: int = 0
    label: Label | None = None
    """None until it ended."""
    message: str = ""
    loaded: Taken = field(default_factory=dict)
    batches: list[Taken] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """Rows that were answered or cannot be."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in a record."""
        if record["event"] == "batch_size":
            self.batch_size = record["batch_size"]
        elif record["event"] == "loaded":
            self.loaded = record["taken"]
        elif record["event"] == "answered":
            self.batches.append(record["taken"])
            self.seen.update(int(row) for name in ("answers", "bad") for row in record["taken"][name])
        else:
            self.label, self.message = record["label"], record["message"]

    def merged(self, name: str) -> dict[int, Any]:
        """A mapping of all batches, by the questions' rows."""
        return {int(row): value for batch in self.batches for row, value in batch[name].items()}


@dataclass(frozen=True)
class _Search:
    """How the batch of a point is found."""

    batch_size: int
    auto_adjust: bool
    max_batch_size: int
    max_trials: int
    text_tokens: int
    timeout: float

    def find(self, setup: SweepSetup) -> tuple[int, Label, str]:
        """(batch, label, message); a batch of 0 where not even one question works."""
        if not self.auto_adjust:
            return self.batch_size, "ok", ""
        found = probe(
            setup.model,
            setup.spec,
            max_crops=setup.max_crops,
            batch_size=self.batch_size,
            auto_adjust_batch_size=True,
            max_batch_size=self.max_batch_size,
            max_trials=self.max_trials,
            mode="generate",
            text_tokens=self.text_tokens,
            new_tokens=setup.new_tokens,
            device=setup.device,
            dtype=setup.dtype,
            attention=setup.attention,
            memory_limit=setup.memory_limit,
            repeats=1,
            timeout=self.timeout,
        )
        search = found.batches[setup.max_crops]
        failed = next((row for row in reversed(found.rows) if row.label != "ok"), None)
        if search.batch_size or failed is None:
            return search.batch_size, "ok", ""
        return 0, failed.label, f"no batch works: {failed.message}"


class _Run:
    """Runs points one after the other and writes each step to the journal.

    Args:
        setup: what all points share.
        questions: of the dataset.
        journal: with what earlier runs did.
        timeout: seconds of loading, and of a batch.
        total: points, for the progress.
        on_progress: told of each step.
    """

    def __init__(
        self,
        setup: SweepSetup,
        questions: Sequence[Question],
        journal: Journal,
        *,
        timeout: float,
        total: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.points: dict[int, _Point] = {}
        for record in journal.records:
            self.points.setdefault(record["max_crops"], _Point()).add(record)
        self._setup, self._questions, self._journal = setup, questions, journal
        self._timeout = timeout
        self._total, self._on_progress = total * len(questions), on_progress
        self._ended = 0

    def point(self, max_crops: int, search: _Search, *, retry_failed: bool = False) -> None:
        """Runs what is left of a point."""
        point = self.points.setdefault(max_crops, _Point())
        if point.label is None or (point.label != "ok" and retry_failed):
            point.label = None
            setup = replace(self._setup, max_crops=max_crops)
            if not point.batch_size:
                batch, label, message = search.find(setup)
                if batch:
                    self._record(max_crops, "batch_size", batch_size=batch)
                else:
                    self._record(max_crops, "ended", label=label, message=message)
            while point.label is None:
                label, message = self._answer_the_rest(setup, point)
                if label == "out_of_memory" and search.auto_adjust and point.batch_size > 1:
                    self._record(max_crops, "batch_size", batch_size=point.batch_size // 2)
                else:
                    self._record(max_crops, "ended", label=label, message=message)
        self._ended += 1
        self._tell(max_crops, f"{point.label}")

    def _answer_the_rest(self, setup: SweepSetup, point: _Point) -> tuple[Label, str]:
        with Worker(timeout=self._timeout, operation="sweep", one_thread=False) as worker:
            label, message, taken = call(worker, _sweep_child.load, setup)
            if label != "ok":
                return label, f"loading the model: {message}"
            self._record(setup.max_crops, "loaded", taken=taken)
            first = True
            for batch in _batches(self._questions, point):
                label, message, taken = call(worker, _sweep_child.answer, batch)
                if label != "ok":
                    return label, f"{_rows_text(batch)}: {message}"
                self._record(setup.max_crops, "answered", taken={**taken, "first": first})
                first = False
                self._tell(setup.max_crops, f"{len(taken['answers'])} answered")
        if not point.merged("answers"):
            row, reason = next(iter(point.merged("bad").items()))
            return "error", f"no question could be prepared; row {row} of the data: {reason}"
        return "ok", ""

    def _record(self, max_crops: int, event: str, **what: Any) -> None:
        record = {"max_crops": max_crops, "event": event, **what}
        self._journal.append(record)
        self.points[max_crops].add(json.loads(json.dumps(record)))  # as a later run will read it

    def _tell(self, max_crops: int, note: str) -> None:
        if self._on_progress is not None:
            done = self._ended * len(self._questions)
            if self.points[max_crops].label is None:
                done += len(self.points[max_crops].seen)
            self._on_progress(SweepProgress(max_crops, done, self._total, note))


def _batches(questions: Sequence[Question], point: _Point) -> Iterator[Sequence[Question]]:
    """What is left, in the batches that a run without a stop has: those of an earlier one were whole."""
    seen = point.seen
    left = [question for question in questions if question.row not in seen]
    for start in range(0, len(left), point.batch_size):
        yield left[start : start + point.batch_size]


def _rows_text(batch: Sequence[Question]) -> str:
    rows = f"row {batch[0].row}" if len(batch) == 1 else f"rows {batch[0].row} to {batch[-1].row}"
    return f"at {rows} of the data"


# -- what comes of it ----------------------------------------------------------------------------------------------


def _judged(
    points: Mapping[int, _Point],
    questions: Sequence[Question],
    bad: Sequence[BadRow],
    score: Metric,
    spec: Spec,
    predicted: Mapping[int, int | None],
    notes: list[str],
    resamples: int,
    level: float,
    tolerance: float,
    seed: int,
) -> dict[str, Any]:
    """Rows, knee, answers, quarantine and notes of a Sweep."""
    given = {value: point.merged("answers") for value, point in points.items()}
    complete = [value for value, point in points.items() if point.label == "ok"]
    # A point that failed may have failed at every row, and takes none from the others.
    late = {row: reason for value in complete or points for row, reason in points[value].merged("bad").items()}
    counted = [q for q in questions if q.row not in late and all(q.row in given[value] for value in complete)]
    scores = {
        value: {q.row: _score(score, q, of_value[q.row]) for q in questions if q.row in of_value}
        for value, of_value in given.items()
    }
    found: dict[int, dict[str, Any]] = {value: {} for value in points}
    knee = None
    if complete and counted:
        array = np.array([[scores[value][q.row] for q in counted] for value in complete])
        means, samples = array.mean(axis=1), resample(array, resamples=resamples, seed=seed)
        for at, value in enumerate(complete):
            found[value].update(_named("accuracy", interval(float(means[at]), samples[:, at], level=level)))
            if at:
                gain, gains = float(means[at] - means[at - 1]), samples[:, at] - samples[:, at - 1]
                found[value].update(_named("gain", interval(gain, gains, level=level)))
        if len(complete) > 1:
            knee = find_knee(complete, means, samples, tolerance=tolerance)
    rows = tuple(
        SweepRow(
            max_crops=value,
            batch_size=point.batch_size,
            label=point.label or "error",
            message=point.message,
            answered=len(given[value]),
            worst_case_tokens=_worst_tokens(spec, value),
            predicted_bytes=predicted[value],
            **found[value],
            **_timed(point),
            **_counted_tokens(spec, value, point),
            **_memory_of(point),
        )
        for value, point in points.items()
    )
    wrong = sum(row.mispredicted or 0 for row in rows)
    if wrong:
        notes.append(
            f"{wrong} prompts have another number of image tokens than counted: the processor cuts otherwise than its"
            f" folder says, or its text marks an image by more than one token"
        )
    if late or bad:
        notes.append(f"{len(late) + len(bad)} rows of the data count at no point; quarantine.jsonl tells why")
    return {
        "rows": rows,
        "knee": knee,
        "quarantined": tuple(sorted((*bad, *(BadRow(row, reason) for row, reason in late.items())), key=_row_of)),
        "answers": tuple(
            {
                "row": q.row,
                "question": q.question,
                "answers": list(q.answers),
                "given": {value: given[value][q.row] for value in points if q.row in given[value]},
                "score": {value: scores[value][q.row] for value in points if q.row in scores[value]},
            }
            for q in questions
        ),
        "notes": tuple(notes),
    }


def _row_of(row: BadRow) -> int:
    return row.row


def _score(metric: Metric, question: Question, answer: str) -> float:
    value = metric(answer, question.answers)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        raise ValueError(f"[sweep] metric must give a number from 0 to 1, got {value!r} for row {question.row}")
    return float(value)


def _named(name: str, of: Interval) -> dict[str, float]:
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def _timed(point: _Point) -> dict[str, Any]:
    batches = [batch for batch in point.batches if batch["answers"]]
    if not batches:
        return {}
    warm = [batch for batch in batches if not batch["first"]] or batches
    full = [_seconds(batch) for batch in warm if not batch["first"] and len(batch["answers"]) == point.batch_size]
    generating = sum(batch["generate_seconds"] for batch in warm)
    tokens = sum(batch["new_tokens"] + sum(batch["prompt_tokens"].values()) for batch in warm)
    parts = (("warm_seconds_p20", 0.2), ("warm_seconds", 0.5), ("warm_seconds_p80", 0.8))
    return {
        "first_seconds": _seconds(batches[0]),
        **{name: float(np.quantile(full, part)) for name, part in parts if full},
        **{
            name: float(np.median([batch[name] / len(batch["answers"]) for batch in warm]))
            for name in ("preprocess_seconds", "generate_seconds")
        },
        "tokens_per_second": tokens / generating if generating else None,
    }


def _seconds(batch: Taken) -> float:
    seconds: float = batch["preprocess_seconds"] + batch["generate_seconds"]
    return seconds


def _counted_tokens(spec: Spec, max_crops: int, point: _Point) -> dict[str, Any]:
    """Prompts and image tokens as the processor wrote them, and as counted."""
    prompts, written, sizes = (point.merged(name) for name in ("prompt_tokens", "image_tokens", "sizes"))
    if not prompts:
        return {}
    counts = count_tokens(spec, np.array([sizes[row] for row in prompts]), max_crops=max_crops)
    of_images = np.array([written[row] for row in prompts])
    return {
        "prompt_tokens_mean": float(np.mean(list(prompts.values()))),
        "prompt_tokens_max": max(prompts.values()),
        "image_tokens_mean": float(of_images.mean()),
        "predicted_image_tokens_mean": float(counts.mean()),
        "mispredicted": int((counts != of_images).sum()),
    }


def _memory_of(point: _Point) -> dict[str, int | None]:
    names = ("allocated_bytes", "reserved_bytes", "peak_rss_bytes", "used_bytes")
    peaks = {name: [batch[name] for batch in point.batches if batch.get(name) is not None] for name in names}
    loaded = {name: point.loaded.get(name) for name in ("fixed_bytes", "capacity_bytes")}
    return {**{name: max(values, default=None) for name, values in peaks.items()}, **loaded}


def _worst_tokens(spec: Spec, max_crops: int) -> int | None:
    with suppress(UnboundedError):
        return worst_case(spec, max_crops=max_crops).tokens
    return None


def _predicted_bytes(setup: SweepSetup, point: _Point, place: Place, text_tokens: int, notes: list[str]) -> int | None:
    """What a dry run says of the point's batch, of worst images; on the CPU there is none."""
    if place.memory_bytes is None or not point.batch_size:
        return None
    try:
        run = dry_run(
            setup.model,
            setup.spec,
            batch_size=point.batch_size,
            max_crops=setup.max_crops,
            device=place.as_device(setup.memory_limit),
            mode="generate",
            text_tokens=text_tokens,
            new_tokens=setup.new_tokens,
            dtype=setup.dtype,
            attention=setup.attention,
        )
    except MaxCropsError as error:
        note = f"no prediction of memory: {error}"
        if note not in notes:
            notes.append(note)
        return None
    return run.peak_bytes


# -- what is asked for ---------------------------------------------------------------------------------------------


def _values(spec: Spec, max_crops: Iterable[int]) -> list[int]:
    if knob_of(spec)[0] is None:
        raise UnsupportedError(
            f"[sweep] model must have a setting for max_crops in its image processor, got {spec.key}; what bounds its"
            f" crops is {spec.knob}"
        )
    if isinstance(max_crops, str) or not isinstance(max_crops, Iterable):
        raise TypeError(f"[sweep] max_crops must be several integers, got {max_crops!r}")
    values = sorted(set(max_crops))
    if not values:
        raise ValueError("[sweep] max_crops must be at least one integer, got none")
    for value in values:
        require_arguments("sweep", spec, max_crops=value)
        count_tokens(spec, [(1, 1)], max_crops=value)  # raises for a value that the spec cannot have
    return values


def _check_limit(place: Place, memory_limit: int | None, auto_adjust: bool) -> None:
    if place.device != "cpu":
        return
    if memory_limit is not None and sys.platform != "linux":
        raise UnsupportedError("[sweep] memory_limit must be left out on the CPU of other systems than Linux")
    if memory_limit is None and auto_adjust:
        raise ValueError(
            "[sweep] memory_limit must be given with auto_adjust_batch_size on the CPU, got None: a search for the end"
            " of the memory would take the system's, and other processes with it"
        )


def _identity(folder: Path) -> dict[str, Any]:
    """What tells one model folder from another: its files' sizes and times of change."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
