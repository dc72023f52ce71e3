"""maxcrops plan: the largest safe max_crops, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from maxcrops.cli._files import print_unreadable, read_images
from maxcrops.cli._options import (
    Json,
    MaxCrops,
    MaxRatio,
    MaxSide,
    Model,
    Settings,
    Workers,
    note,
    print_json,
    resolve_model,
)


def plan(
    model: Model,
    images: Annotated[list[str] | None, typer.Argument(help="Files, folders or globs to summarise.")] = None,
    max_crops: MaxCrops = None,
    max_sequence_length: Annotated[
        int | None, typer.Option(help="Tokens. Default: the model's configuration, otherwise 4096.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens reserved for prompt, template and answer.")] = 512,
    images_per_sample: Annotated[int, typer.Option(help="Images that share one sequence.")] = 1,
    tight_margin: Annotated[int, typer.Option(help="Fewer tokens to spare than this is tight.")] = 100,
    max_side: MaxSide = None,
    max_ratio: MaxRatio = None,
    rule_of_thumb: Annotated[
        bool, typer.Option("--rule-of-thumb", help="Print the estimate of 144 to 150 tokens a crop beside it.")
    ] = False,
    every_row: Annotated[
        bool, typer.Option("--all", help="Print every value, not only those around the answer.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the plan (png, svg, pdf).")] = None,
    as_json: Json = False,
    settings: Settings = None,
    workers: Workers = 4,
    device: Annotated[
        str | None,
        typer.Option(help="A GPU by name (h100, a100-80gb, l4...) or memory (24GB): a dry run adds its limits."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of the dry run.")] = 1,
    mode: Annotated[str, typer.Option(help="prefill, generate or train.")] = "prefill",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    trainable: Annotated[str, typer.Option(help="all, frozen_vision or connector.")] = "all",
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    config: Annotated[
        str | None, typer.Option(help="The model's config.json, where MODEL names none.", metavar="NAME_OR_FOLDER")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="A budget of time, against an estimate.")] = None,
    max_flops: Annotated[
        float | None, typer.Option(help="A budget of arithmetic; a multiply and an add are 2.")
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=0, help="How far to look for the largest batch of each value; 0: do not.")
    ] = 64,
) -> None:
    """The largest safe max_crops, and why: the exact worst case of every value beside the limits."""
    from maxcrops.planning import plan as make_plan
    from maxcrops.planning import rule_of_thumb as estimate

    spec = resolve_model(model, settings)
    files = read_images(images, workers) if images else []
    readable = [file.size for file in files if file.size is not None]
    unreadable = [file for file in files if file.size is None]
    arguments: dict[str, Any] = {
        "max_sequence_length": max_sequence_length,
        "text_tokens": text_tokens,
        "max_crops": max_crops,
        "images_per_sample": images_per_sample,
        "tight_margin": tight_margin,
        "max_side": max_side,
        "max_ratio": max_ratio,
        "num_threads": workers,
    }
    dry: dict[str, Any] = {}
    if device is not None:
        dry = {
            "model": config or model,
            "device_memory": device,
            "batch_size": batch_size,
            "mode": mode,
            "max_latency_ms": max_latency_ms,
            "max_flops": max_flops,
            "max_batch_size": max_batch_size,
            "run_settings": {
                "dtype": dtype,
                "trainable": trainable,
                "gradient_checkpointing": gradient_checkpointing,
            },
        }
    with _dry_run_progress(show=bool(dry)) as on_progress:
        result = make_plan(spec, sizes=readable or None, on_progress=on_progress, **arguments, **dry)
    rules = estimate(max_sequence_length=result.max_sequence_length) if rule_of_thumb else []
    first = spec.max_crops_range[0]
    known = [rule.max_crops for rule in rules if rule.max_crops >= first]
    exact = make_plan(spec, max_crops_list=known, **arguments).rows if known else ()
    if as_json:
        print_json(
            {
                **result.to_dict(),
                "unreadable": [asdict(file) for file in unreadable],
                **({"rule_of_thumb": [rule.to_dict() for rule in rules]} if rules else {}),
            }
        )
    else:
        from maxcrops.cli import _format, _format_plan

        out = _format.console()
        out.print("\n".join(_format_plan.plan_headline(result)), highlight=False)
        out.print()
        out.print(_format_plan.plan_table(result, every=every_row, narrow=out.width < _format_plan.WIDE))
        out.print(_format_plan.plan_footer(result), highlight=False)
        if result.runs:
            out.print()
            out.print(_format_plan.runs_table(result))
            out.print("\n".join(_format_plan.runs_footer(result)), highlight=False)
        if result.num_images:
            out.print()
            out.print(_format_plan.images_table(result, every=every_row))
        if rules:
            out.print()
            out.print(_format_plan.rule_of_thumb_table(result, rules, exact))
            out.print("\n".join(_format_plan.rule_of_thumb_recommendations()), highlight=False)
        print_unreadable(unreadable)
    if plot is not None:
        from maxcrops.planning.plotting import plot_plan

        plot_plan(result, plot)
        note(f"wrote {plot}")
    raise typer.Exit(0 if result.fits else 1)


@contextmanager
def _dry_run_progress(*, show: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over dry runs."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("dry runs", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
