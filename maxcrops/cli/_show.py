"""maxcrops show: a picture of the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maxcrops._layout import layout
from maxcrops.cli._files import open_upright, require_image_suffix
from maxcrops.cli._options import MaxCrops, Model, Settings, note, resolve_model


def show(
    model: Model,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the picture.")],
    max_crops: MaxCrops = None,
    settings: Settings = None,
) -> None:
    """A picture of the cut: crops, what they share, the global crop, padding, and the numbers."""
    from maxcrops.drawing import draw_layout

    spec = resolve_model(model, settings)
    require_image_suffix(output)
    upright = open_upright(image)
    result = layout(spec, height=upright.height, width=upright.width, max_crops=max_crops)
    draw_layout(result, upright, spec=spec).save(output)
    rows, cols = result.grid
    typer.echo(
        f"{image}: {rows} x {cols} crops, {result.num_crops} with the global one, {result.sequence_tokens} sequence"
        f" tokens; wrote {output}"
    )
    if result.is_refused:
        note(f"the processor of {spec.key} raises for an image of this size")
