"""maxcrops compare: the same images under several models."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from maxcrops.cli._files import print_unreadable, read_images
from maxcrops.cli._options import (
    Json,
    MaxCrops,
    MaxRatio,
    MaxSide,
    Workers,
    models_and_images,
    note,
    parse_size,
    plural,
    print_json,
)

_COMPARE_COLUMNS = (
    "path",
    "height",
    "width",
    "model",
    "rows",
    "cols",
    "num_crops",
    "sequence_tokens",
    "cross_attention_keys",
)


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_OR_IMAGES",
            help="Models, as for the other commands, each with its own settings behind it (NAME:FIELD=VALUE); and"
            " files, folders or globs of images. Without images: a few standard sizes.",
        ),
    ],
    sizes: Annotated[
        list[str] | None, typer.Option("--size", metavar="HxW", help="An image size; may be repeated.")
    ] = None,
    max_crops: MaxCrops = None,
    max_side: MaxSide = None,
    max_ratio: MaxRatio = None,
    every_image: Annotated[bool, typer.Option("--all", help="Print every image, also where there are many.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per image and model.")
    ] = None,
    as_json: Json = False,
    workers: Workers = 4,
) -> None:
    """The same images under several models, and each one's worst case over all images beside it."""
    from maxcrops.planning import STANDARD_SIZES
    from maxcrops.planning import compare as make_comparison

    specs, images = models_and_images(arguments)
    files = read_images(images, workers) if images else []
    unreadable = [file for file in files if file.size is None]
    named: list[tuple[str | None, tuple[int, int]]] = [(None, parse_size("--size", size)) for size in sizes or []]
    named += [(file.path, file.size) for file in files if file.size is not None]
    if not images and not sizes:
        named = [(None, size) for size in STANDARD_SIZES]
    paths = [path for path, _ in named]
    result = make_comparison(
        specs,
        [size for _, size in named],
        max_crops=max_crops,
        max_side=max_side,
        max_ratio=max_ratio,
        num_threads=workers,
    )
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
            writer = csv.DictWriter(handle, fieldnames=_COMPARE_COLUMNS)
            writer.writeheader()
            writer.writerows(
                {"path": path, "height": height, "width": width, "model": model.name, **model.costs(at)}
                for at, (path, (height, width)) in enumerate(named)
                for model in result.models
            )
        note(f"wrote {plural(len(named) * len(specs), 'row')} to {csv_file}")
    if as_json:
        data = result.to_dict()
        data["images"] = [{"path": path, **image} for path, image in zip(paths, data["images"], strict=True)]
        print_json({**data, "unreadable": [asdict(file) for file in unreadable]})
    else:
        from maxcrops.cli import _format, _format_compare

        out = _format.console()
        few = len(named) <= _format_compare.MOST_COMPARED
        if named and (few or every_image):
            out.print(_format_compare.comparison_table(result, paths))
            out.print()
        if named and (not few or every_image):
            out.print(_format_compare.comparison_summary(result))
            out.print()
        out.print(_format_compare.worst_cases_table(result))
        for line in _format_compare.unbounded_lines(result):
            out.print(line, highlight=False)
        print_unreadable(unreadable)
    raise typer.Exit(1 if unreadable else 0)
