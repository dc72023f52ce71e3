"""The commands."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from maxcrops import __version__
from maxcrops.cli import _bench, _compare, _count, _plan, _probe, _show, _specs, _sweep
from maxcrops.exceptions import UnverifiedSettingsWarning

app = typer.Typer(
    name="maxcrops",
    help="Exact crop and token budgets for crop-based vision-language models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(_bench.app)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"maxcrops {__version__}")
        raise typer.Exit
    # Pillow warns of large images and odd metadata; headers are read here, nothing is decoded.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=UnverifiedSettingsWarning)  # resolve_model says it in a line


app.command(
    epilog="Example: [b]maxcrops plan molmo-7b-d --text-tokens 1024 photos/[/b]. Exit status 1 when the asked-for"
    " max_crops is over a limit."
)(_plan.plan)
app.command(
    epilog="Example: [b]maxcrops count molmo2-8b photos/ --csv counts.csv[/b]. Exit status 1 when a file could not be"
    " read, or the model's own processor raises for an image of its size."
)(_count.count)
app.command(
    epilog="Examples: [b]maxcrops compare molmo2-8b internvl3-8b gemma3:do_pan_and_scan=true photos/[/b],"
    " [b]maxcrops compare mllama llama4 --size 1080x1920[/b]. Exit status 1 when a file could not be read."
)(_compare.compare)
app.command(epilog="Example: [b]maxcrops show molmo-7b-d photo.jpg -o cut.png[/b]")(_show.show)
app.command(
    epilog="Examples: [b]maxcrops specs molmo2[/b], [b]maxcrops specs --sheet families.png --image photo.jpg[/b]."
)(_specs.specs)
app.command(
    epilog="Example: [b]maxcrops probe ./Molmo2-8B --max-crops 8,12,20,25 --batch-size 16[/b]. It needs the extra"
    " [b]transformers[/b]. Exit status 1 when no point succeeded."
)(_probe.probe)
app.command(
    epilog="Example: [b]maxcrops sweep ./Molmo2-8B --data vqa.jsonl --max-crops-list 2..13 --batch-size 16[/b]. It"
    " needs the extras [b]transformers[/b] and [b]plot[/b]. Exit status 1 when no point is complete."
)(_sweep.sweep)
