"""maxcrops count: what each image of a folder costs."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maxcrops._core import Layout
from maxcrops._layout import layout
from maxcrops.cli._files import print_unreadable, read_images
from maxcrops.cli._options import Json, MaxCrops, Model, Settings, Workers, note, plural, print_json, resolve_model

if TYPE_CHECKING:
    from maxcrops.data import ImageFile

_COUNT_COLUMNS = (
    "path",
    "height",
    "width",
    "rows",
    "cols",
    "num_crops",
    "sequence_tokens",
    "connector_outputs",
    "vit_patches",
    "scale",
    "refused",
)


def count(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Files, folders or globs.")],
    max_crops: MaxCrops = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per file.")] = None,
    as_json: Json = False,
    settings: Settings = None,
    workers: Workers = 4,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode every image too, to find truncated ones; slow.")
    ] = False,
) -> None:
    """Grid, crops and tokens of each image, from file headers alone. A file that cannot be read stops nothing."""
    spec = resolve_model(model, settings)
    files = read_images(images, workers, verify=verify)
    rows = [
        _count_row(file, layout(spec, height=file.size[0], width=file.size[1], max_crops=max_crops))
        for file in files
        if file.size is not None
    ]
    unreadable = [file for file in files if file.size is None]
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
            writer = csv.DictWriter(handle, fieldnames=_COUNT_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        note(f"wrote {len(rows)} rows to {csv_file}")
    if as_json:
        print_json(
            {
                "model": spec.key,
                "unverified": list(spec.unverified),
                "images": rows,
                "unreadable": [asdict(file) for file in unreadable],
            }
        )
    else:
        if csv_file is None:
            _print_counts(rows)
        if rows:
            typer.echo(f"{plural(len(rows), 'image')}, {sum(row['sequence_tokens'] for row in rows)} sequence tokens")
        print_unreadable(unreadable)
    refused = [row["path"] for row in rows if row["refused"]]
    if refused:
        note(f"{plural(len(refused), 'image')} for which the processor of {spec.key} raises, such as {refused[0]}")
    raise typer.Exit(1 if unreadable or refused else 0)


def _count_row(file: ImageFile, cut: Layout) -> dict[str, Any]:
    return {
        "path": file.path,
        "height": cut.height,
        "width": cut.width,
        "rows": cut.grid[0],
        "cols": cut.grid[1],
        "num_crops": cut.num_crops,
        "sequence_tokens": cut.sequence_tokens,
        "connector_outputs": cut.connector_outputs,
        "vit_patches": cut.vit_patches,
        "scale": round(cut.scale, 6),
        "refused": cut.is_refused,
    }


def _print_counts(rows: list[dict[str, Any]]) -> None:
    from maxcrops.cli import _format

    columns = (
        "height",
        "width",
        "grid",
        "crops",
        "sequence tokens",
        "connector outputs",
        "ViT patches",
        "scale",
        "image",
    )
    _format.console().print(
        _format.table(
            "",
            columns,
            [
                [
                    str(row["height"]),
                    str(row["width"]),
                    _format.grid_text((row["rows"], row["cols"])),
                    *(str(row[name]) for name in ("num_crops", "sequence_tokens", "connector_outputs", "vit_patches")),
                    f"{row['scale']:.2f}",
                    _format.cell(row["path"]),
                ]
                for row in rows
            ],
            left=("image",),
        )
    )
