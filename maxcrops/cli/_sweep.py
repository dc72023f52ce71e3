"""maxcrops sweep: accuracy, latency and memory over max_crops."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maxcrops.cli._options import Json, Settings, parse_bytes, print_json, resolve_model

if TYPE_CHECKING:
    from maxcrops.profiling.sweep import SweepProgress


def sweep(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_DIR", help="A folder with weights, a processor and a tokenizer."),
    ],
    data: Annotated[
        Path,
        typer.Option(metavar="DATA", help="JSON lines, Parquet, or a folder of Hugging Face datasets."),
    ],
    max_crops_list: Annotated[
        str, typer.Option("--max-crops-list", "-n", metavar="N,A..B,...", help="Values, and ranges with both ends.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="For the journal, tables and report; a sweep that was stopped goes on there."),
    ] = Path("sweep"),
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Questions answered at once.")] = 1,
    auto_adjust_batch_size: Annotated[
        bool,
        typer.Option("--auto-adjust-batch-size", help="Look for the largest batch of each max_crops that works."),
    ] = False,
    max_batch_size: Annotated[int, typer.Option(min=1, help="How far to look for it.")] = 256,
    max_trials: Annotated[int, typer.Option(min=1, help="Points that a search may take.")] = 5,
    metric: Annotated[
        str, typer.Option(help="vqa, exact, anls, or your own as module:function or file.py:function.")
    ] = "vqa",
    prompt: Annotated[str, typer.Option(help="What is asked, with {question} in it.")] = "{question}",
    new_tokens: Annotated[int, typer.Option(min=1, help="Most that an answer may have.")] = 16,
    text_tokens: Annotated[int, typer.Option(min=1, help="Of a prompt beside its image, for the search.")] = 128,
    image: Annotated[str, typer.Option(help="Column of the data.")] = "image",
    question: Annotated[str, typer.Option(help="Column of the data.")] = "question",
    answers: Annotated[str, typer.Option(help="Column of the data.")] = "answers",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of the data, from the first on.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32. Default: bfloat16, on the CPU float32.")
    ] = None,
    attention: Annotated[str, typer.Option(help="sdpa, eager or flash_attention_2.")] = "sdpa",
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a point may take: 8GB, 400MiB.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of loading, and of a batch.")] = 600,
    level: Annotated[float, typer.Option(help="Of the confidence limits.")] = 0.95,
    tolerance: Annotated[
        float, typer.Option(help="Accuracy, of 1, that a larger value must gain to lie beyond the knee.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run points again that failed in an earlier run.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html and report.png.")] = True,
    as_json: Json = False,
    settings: Settings = None,
) -> None:
    """Accuracy, latency and memory of a real model on a dataset, over max_crops; finds the knee."""
    from maxcrops.cli import _format
    from maxcrops.profiling.report import knee_lines
    from maxcrops.profiling.sweep import sweep as run_sweep

    arguments: dict[str, Any] = {
        "max_crops": parse_values("--max-crops-list", max_crops_list),
        "out": out,
        "batch_size": batch_size,
        "auto_adjust_batch_size": auto_adjust_batch_size,
        "max_batch_size": max_batch_size,
        "max_trials": max_trials,
        "metric": metric,
        "prompt": prompt,
        "new_tokens": new_tokens,
        "text_tokens": text_tokens,
        "image": image,
        "question": question,
        "answers": answers,
        "limit": limit,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "memory_limit": None if memory_limit is None else parse_bytes("--memory-limit", memory_limit),
        "timeout": timeout,
        "level": level,
        "tolerance": tolerance,
        "seed": seed,
        "retry_failed": retry_failed,
        "report": report,
    }
    with _format.progress() as bar:
        task = bar.add_task("loading", total=None)

        def tell(at: SweepProgress) -> None:
            bar.update(task, completed=at.done, total=at.total, description=f"max_crops {at.max_crops}: {at.note}")

        result = run_sweep(model, data, spec=resolve_model(model, settings), on_progress=tell, **arguments)
    if as_json:
        print_json(result.to_dict())
    else:
        console = _format.console()
        console.print(_format.sweep_table(result))
        console.print("\n".join(knee_lines(result)), highlight=False)
        for note in result.notes:
            console.print(f"note: {note}", highlight=False)
    written = out / ("report.html" if report else "rows.csv")
    typer.echo(f"wrote {written} and the tables beside it", err=True)
    raise typer.Exit(0 if result.succeeded else 1)


def parse_values(option: str, text: str) -> list[int]:
    """Integers of an option such as 2,4..8: each value or range with both its ends, ascending and once.

    >>> parse_values("--max-crops-list", "12,2..4,3")
    [2, 3, 4, 12]
    """
    values: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:\.\.\s*(\d{1,9})\s*)?", part)
        if match is None:
            raise ValueError(f"{option} must be integers and ranges A..B, with commas between, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last:
            raise ValueError(f"{option} must have integers of at least 1 and ranges that ascend, got {part.strip()!r}")
        values.update(range(first, last + 1))
    return sorted(values)
