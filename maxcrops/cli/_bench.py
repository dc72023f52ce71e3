"""maxcrops bench: timings on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from maxcrops.cli._options import NUMBER, Json, Settings, parse_size, plural, resolve_model

app = typer.Typer(
    name="bench",
    help="Time maxcrops on this machine beside what it stands in for.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.callback()
def _bench() -> None:
    """Makes a command of its own of each benchmark, also while there is one."""


@app.command(
    epilog="Example: [b]maxcrops bench preprocess molmo2 --sizes 480x640,1080x1920 --max-crops 8,24 --csv rows.csv[/b]."
    " It needs the extra [b]bench[/b]. A torchvision whose compiled operators do not fit torch gets their schemas"
    " declared, in this command alone."
)
def preprocess(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Molmo2 or Molmo: a known model, or a model folder.")
    ] = "molmo2",
    sizes: Annotated[
        str, typer.Option(metavar="HxW,...", help="Image sizes, height before width.")
    ] = "480x640,1080x1920,3024x4032,1237x811",
    max_crops: Annotated[
        str | None, typer.Option("--max-crops", "-n", metavar="N,...", help="Default: the model's own setting.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each competitor is timed, in turn.")] = 7,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per competitor.")] = None,
    as_json: Json = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="The smallest size, at most 3 rounds, float32 and the instruction set in use alone."
        ),
    ] = False,
    settings: Settings = None,
) -> None:
    """Preprocessing pixels beside the model's own code: outputs compared first, then timed in turn."""
    from maxcrops.cli import _format
    from maxcrops.profiling import harness, preprocessing
    from maxcrops.profiling._torchvision import has_declared

    spec = resolve_model(model, settings)
    image_sizes = [parse_size("--sizes", part) for part in sizes.split(",")]
    crops = [spec.max_crops] if max_crops is None else [_positive(part) for part in max_crops.split(",")]
    if quick:
        image_sizes = [min(image_sizes, key=lambda size: size[0] * size[1])]
        rounds = min(rounds, 3)
    makers = preprocessing.cases(spec, sizes=image_sizes, max_crops=crops, rounds=rounds, quick=quick)
    if has_declared():
        typer.echo("torchvision's compiled operators are missing: their schemas were declared, for this run", err=True)
    machine = harness.environment()
    if float(machine["load_average"] or 0) > _BUSY:
        typer.echo(
            f"the load average is {machine['load_average']}: other processes run, and torch with two threads, which"
            " wait for each other, suffers most",
            err=True,
        )
    with _format.progress() as bar:
        task = bar.add_task("", total=len(makers))
        rows = list(
            harness.measure_all(
                makers, lambda case, done: bar.update(task, description=f"comparing, timing: {case}", completed=done)
            )
        )
    if csv_file is not None:
        harness.write_csv(csv_file, rows, machine)
        typer.echo(f"wrote {plural(len(rows), 'row')} to {csv_file}", err=True)
    if as_json:
        typer.echo(json.dumps({"environment": machine, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        out = _format.console()
        for table in _format.bench_tables(rows):
            out.print(table)
            out.print()
        out.print(_format.bench_footer(machine), highlight=False)


_BUSY = 0.5  # load average; that of a machine with nothing to do is near 0


def _positive(text: str) -> int:
    if not re.fullmatch(NUMBER, text):
        raise ValueError(f"--max-crops must be integers of at least 1, with commas between, got {text!r}")
    return int(text)
