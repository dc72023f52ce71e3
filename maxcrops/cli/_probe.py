"""maxcrops probe: a real model, run on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maxcrops.cli._options import Json, Settings, parse_bytes, plural, resolve_model

if TYPE_CHECKING:
    from maxcrops.profiling.probe import ProbeRow


def probe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A folder with config.json, and with weights or without; or the name of a shipped configuration.",
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Files that make a sample, by their sizes. Default: the worst image of each max_crops."),
    ] = None,
    max_crops: Annotated[
        str | None, typer.Option("--max-crops", "-n", metavar="N,...", help="Default: the model's own setting.")
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", metavar="N,...", help="Samples.")] = "1",
    auto_adjust_batch_size: Annotated[
        bool,
        typer.Option("--auto-adjust-batch-size", help="Look for the largest batch of each max_crops that works."),
    ] = False,
    max_batch_size: Annotated[int, typer.Option(min=1, help="How far to look for it.")] = 256,
    max_trials: Annotated[int, typer.Option(min=1, help="Points that a search may take.")] = 5,
    mode: Annotated[str, typer.Option(help="prefill, generate or train.")] = "prefill",
    text_tokens: Annotated[int, typer.Option(help="Tokens of a sample beside its images'.")] = 512,
    new_tokens: Annotated[int, typer.Option(help="Tokens that --mode generate decodes.")] = 32,
    images_per_sample: Annotated[int, typer.Option(help="Worst images that share one sequence.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32. Default: bfloat16, on the CPU float32.")
    ] = None,
    attention: Annotated[str, typer.Option(help="sdpa, eager or flash_attention_2.")] = "sdpa",
    trainable: Annotated[str, typer.Option(help="all, frozen_vision or connector.")] = "all",
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    optimizer: Annotated[str, typer.Option(help="adamw_foreach, adamw_fused or none.")] = "adamw_foreach",
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a point may take: 8GB, 400MiB.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Warm runs of a point.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds of a point, imports included.")] = 600,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per point.")] = None,
    jsonl_file: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="Write a JSON object per point.")
    ] = None,
    as_json: Json = False,
    settings: Settings = None,
) -> None:
    """Latency and memory of a real model on this machine; a point that fails is a row like the others."""
    from maxcrops.cli import _format
    from maxcrops.profiling.probe import probe as run_probe

    values = None if max_crops is None else _integers("--max-crops", max_crops)
    batches = _integers("--batch-size", batch_size)
    arguments: dict[str, Any] = {
        "max_crops": values,
        "batch_size": batches,
        "auto_adjust_batch_size": auto_adjust_batch_size,
        "max_batch_size": max_batch_size,
        "max_trials": max_trials,
        "mode": mode,
        "images": images or None,
        "images_per_sample": images_per_sample,
        "text_tokens": text_tokens,
        "new_tokens": new_tokens,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "trainable": trainable,
        "gradient_checkpointing": gradient_checkpointing,
        "optimizer": optimizer,
        "memory_limit": None if memory_limit is None else parse_bytes("--memory-limit", memory_limit),
        "repeats": repeats,
        "timeout": timeout,
    }
    points = len(values or (1,)) * (max_trials if auto_adjust_batch_size else len(batches))
    with _format.progress() as bar:
        task = bar.add_task("running", total=points)

        def tell(row: ProbeRow) -> None:
            description = f"max_crops {row.max_crops}, batch {row.batch_size}: {row.label}"
            bar.update(task, advance=1, description=description)

        result = run_probe(model, resolve_model(model, settings), on_row=tell, **arguments)
    for file, write in ((csv_file, result.write_csv), (jsonl_file, result.write_jsonl)):
        if file is not None:
            write(file)
            typer.echo(f"wrote {plural(len(result.rows), 'row')} to {file}", err=True)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        out = _format.console()
        out.print(_format.probe_table(result))
        out.print("\n".join(_format.probe_footer(result)), highlight=False)
    raise typer.Exit(0 if result.succeeded else 1)


def _integers(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", part) for part in parts):
        raise ValueError(f"{option} must be integers of at least 1, with commas between, got {text!r}")
    return [int(part) for part in parts]
