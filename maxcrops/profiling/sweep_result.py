"""What a sweep found: its rows, its knee and every answer, and their tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from maxcrops.data.questions import BadRow, Question
from maxcrops.profiling.batch_search import Label
from maxcrops.profiling.statistics import Knee


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One max_crops, and what became of it. What a point that failed did not come to is None."""

    max_crops: int
    batch_size: int
    label: Label
    """As of a ProbeRow; "ok": every question was answered, but for those that are quarantined."""
    message: str = ""
    """Why it failed, in one line, and at which questions."""
    answered: int
    """Questions."""
    accuracy: float | None = None
    """Mean score, of 1, over the questions that every point with the label "ok" answered."""
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    gain: float | None = None
    """Accuracy beyond the point before it, among those with the label "ok"."""
    gain_low: float | None = None
    gain_high: float | None = None
    """Its limits, paired: both points are scored on the same resamples."""
    first_seconds: float | None = None
    """Of the first batch, which loads kernels and fills caches; preparing it included, as below."""
    warm_seconds: float | None = None
    """Median of the full batches after it."""
    warm_seconds_p20: float | None = None
    warm_seconds_p80: float | None = None
    preprocess_seconds: float | None = None
    """Of one question: reading, decoding and preparing its image and text; the median of the batches after the first,
    where there are any."""
    generate_seconds: float | None = None
    """The same of generating its answer."""
    tokens_per_second: float | None = None
    """Of the prompts and what was generated, while generating, in these batches."""
    prompt_tokens_mean: float | None = None
    prompt_tokens_max: int | None = None
    image_tokens_mean: float | None = None
    """As the model's processor wrote them."""
    predicted_image_tokens_mean: float | None = None
    """As they are counted from the sizes alone."""
    mispredicted: int | None = None
    """Questions whose counted and written image tokens differ."""
    worst_case_tokens: int | None = None
    """Image tokens of the worst image; None where none is the worst."""
    allocated_bytes: int | None = None
    """On a GPU: as ``torch.cuda.max_memory_allocated``."""
    reserved_bytes: int | None = None
    """On a GPU: as ``torch.cuda.max_memory_reserved``."""
    peak_rss_bytes: int | None = None
    """On the CPU: most that was resident of the process, imports included."""
    used_bytes: int | None = None
    """As of a ProbeRow."""
    fixed_bytes: int | None = None
    """Of the weights."""
    capacity_bytes: int | None = None
    """What was free, or the limit."""
    predicted_bytes: int | None = None
    """On a GPU: of allocated memory, by a dry run of a batch of the worst image."""


COLUMNS = tuple(column.name for column in fields(SweepRow))
"""Of a row."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """What was measured, and of what."""

    model: str
    spec_key: str
    data: str
    metric: str
    device: str
    """Its name."""
    dtype: str
    attention: str
    prompt: str
    new_tokens: int
    questions: int
    """Of the dataset, those that are quarantined not among them."""
    level: float
    """Of the confidence limits."""
    rows: tuple[SweepRow, ...]
    """By max_crops."""
    knee: Knee | None
    """None where fewer than two points were complete."""
    quarantined: tuple[BadRow, ...]
    """Rows of the dataset that count at no point, and why."""
    answers: tuple[Mapping[str, Any], ...]
    """Of each question: row, question, answers; given and score, by max_crops."""
    notes: tuple[str, ...]
    """What a reader of the numbers must know, in words."""
    environment: Mapping[str, str]
    """CPU, versions, load, date: as of the benchmarks."""
    images: Callable[[int], Question] = field(compare=False)
    """The question of a row, with its image."""

    @property
    def succeeded(self) -> bool:
        """Whether any point did."""
        return any(row.label == "ok" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; without the single answers."""
        plain = {name: value for name, value in vars(self).items() if name not in ("images", "answers", "environment")}
        plain["rows"] = [asdict(row) for row in self.rows]
        plain["knee"] = None if self.knee is None else asdict(self.knee)
        plain["quarantined"] = [asdict(row) for row in self.quarantined]
        return {**plain, "environment": dict(self.environment), "succeeded": self.succeeded}

    def write(self, folder: str | PathLike[str]) -> None:
        """Writes rows (JSONL and CSV), answers and quarantine (JSONL), and summary.json.

        Args:
            folder: is made where it is not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self.rows]
        _write_lines(folder / "rows.jsonl", rows)
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        _write_lines(folder / "answers.jsonl", self.answers)
        _write_lines(folder / "quarantine.jsonl", [asdict(row) for row in self.quarantined])
        (folder / "summary.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        worked = sum(row.label == "ok" for row in self.rows)
        knee = "" if self.knee is None else f", knee at {self.knee.max_crops}"
        return f"Sweep({self.spec_key} on {self.device}: {worked} of {len(self.rows)} points complete{knee})"


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
