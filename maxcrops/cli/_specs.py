"""maxcrops specs: what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maxcrops.cli._files import open_upright, require_image_suffix
from maxcrops.cli._options import Json, Settings, named_spec, plural, print_json
from maxcrops.specs import FAMILIES, Spec, get_spec, list_specs


def specs(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="One model in full, or a model folder.")
    ] = None,
    as_json: Json = False,
    settings: Settings = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table of families.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw how each family, or the model, cuts an image, all in one picture."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The image of the sheet. Default: a test card.")
    ] = None,
) -> None:
    """What is known of each model, with sources and the original's oddities."""
    from maxcrops.cli import _format, _format_specs

    if markdown:
        typer.echo(_format_specs.families_markdown())
        return
    chosen: list[Spec] = [named_spec(model, settings)] if model else [get_spec(key) for key in list_specs()]
    if image is not None and sheet is None:
        raise ValueError("--image is the image of a sheet: give --sheet FILE too")
    if sheet is not None:
        from maxcrops.drawing import draw_sheet

        require_image_suffix(sheet)
        drawn = chosen if model else [family.spec for family in FAMILIES]
        draw_sheet(drawn, None if image is None else open_upright(image)).save(sheet)
        typer.echo(f"wrote {sheet}: {plural(len(drawn), 'model')}")
        return
    if as_json:
        print_json([spec.to_dict() for spec in chosen])
        return
    out = _format.console()
    if model:
        out.print("\n".join(_format_specs.spec_lines(chosen[0])), highlight=False, soft_wrap=True)
    else:
        out.print(_format_specs.specs_table(chosen))
