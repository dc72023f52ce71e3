"""The commands."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maxcrops import __version__
from maxcrops._core import Layout
from maxcrops._layout import layout
from maxcrops.cli import _bench, _probe
from maxcrops.cli._options import (
    Json,
    MaxCrops,
    MaxRatio,
    MaxSide,
    Model,
    Settings,
    Workers,
    models_and_images,
    named_spec,
    note,
    parse_size,
    plural,
    resolve_model,
)
from maxcrops.exceptions import UnverifiedSettingsWarning
from maxcrops.specs import FAMILIES, Spec, get_spec, list_specs

if TYPE_CHECKING:
    from PIL.Image import Image

    from maxcrops.data import ImageFile

app = typer.Typer(
    name="maxcrops",
    help="Exact crop and token budgets for crop-based vision-language models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(_bench.app)
app.command(
    epilog="Example: [b]maxcrops probe ./Molmo2-8B --max-crops 8,12,20,25 --batch-size 16[/b]. It needs the extra"
    " [b]transformers[/b]. Exit status 1 when no point succeeded."
)(_probe.probe)

_PROGRESS_FROM = 200  # files; fewer are done before a bar could be read


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"maxcrops {__version__}")
        raise typer.Exit
    # Pillow warns of large images and odd metadata; headers are read here, nothing is decoded.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=UnverifiedSettingsWarning)  # resolve_model says it in a line


@app.command(
    epilog="Example: [b]maxcrops plan molmo-7b-d --text-tokens 1024 photos/[/b]. Exit status 1 when the asked-for"
    " max_crops is over a limit."
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
    files = _read(images, workers) if images else []
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
        _print_json(
            {
                **result.to_dict(),
                "unreadable": [asdict(file) for file in unreadable],
                **({"rule_of_thumb": [rule.to_dict() for rule in rules]} if rules else {}),
            }
        )
    else:
        from maxcrops.cli import _format

        out = _format.console()
        out.print("\n".join(_format.plan_headline(result)), highlight=False)
        out.print()
        out.print(_format.plan_table(result, every=every_row, narrow=out.width < _format.WIDE))
        out.print(_format.plan_footer(result), highlight=False)
        if result.runs:
            out.print()
            out.print(_format.runs_table(result))
            out.print("\n".join(_format.runs_footer(result)), highlight=False)
        if result.num_images:
            out.print()
            out.print(_format.images_table(result, every=every_row))
        if rules:
            out.print()
            out.print(_format.rule_of_thumb_table(result, rules, exact))
            out.print("\n".join(_format.rule_of_thumb_recommendations()), highlight=False)
        _print_unreadable(unreadable)
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


@app.command(
    epilog="Example: [b]maxcrops count molmo2-8b photos/ --csv counts.csv[/b]. Exit status 1 when a file could not be"
    " read, or the model's own processor raises for an image of its size."
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
    files = _read(images, workers, verify=verify)
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
        _print_json(
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
        _print_unreadable(unreadable)
    refused = [row["path"] for row in rows if row["refused"]]
    if refused:
        note(f"{plural(len(refused), 'image')} for which the processor of {spec.key} raises, such as {refused[0]}")
    raise typer.Exit(1 if unreadable or refused else 0)


@app.command(
    epilog="Examples: [b]maxcrops compare molmo2-8b internvl3-8b gemma3:do_pan_and_scan=true photos/[/b],"
    " [b]maxcrops compare mllama llama4 --size 1080x1920[/b]. Exit status 1 when a file could not be read."
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
    files = _read(images, workers) if images else []
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
        _print_json({**data, "unreadable": [asdict(file) for file in unreadable]})
    else:
        from maxcrops.cli import _format

        out = _format.console()
        few = len(named) <= _format.MOST_COMPARED
        if named and (few or every_image):
            out.print(_format.comparison_table(result, paths))
            out.print()
        if named and (not few or every_image):
            out.print(_format.comparison_summary(result))
            out.print()
        out.print(_format.worst_cases_table(result))
        for line in _format.unbounded_lines(result):
            out.print(line, highlight=False)
        _print_unreadable(unreadable)
    raise typer.Exit(1 if unreadable else 0)


@app.command(epilog="Example: [b]maxcrops show molmo-7b-d photo.jpg -o cut.png[/b]")
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
    _require_image_suffix(output)
    upright = _open_upright(image)
    result = layout(spec, height=upright.height, width=upright.width, max_crops=max_crops)
    draw_layout(result, upright, spec=spec).save(output)
    rows, cols = result.grid
    typer.echo(
        f"{image}: {rows} x {cols} crops, {result.num_crops} with the global one, {result.sequence_tokens} sequence"
        f" tokens; wrote {output}"
    )
    if result.is_refused:
        note(f"the processor of {spec.key} raises for an image of this size")


@app.command(
    epilog="Examples: [b]maxcrops specs molmo2[/b], [b]maxcrops specs --sheet families.png --image photo.jpg[/b]."
)
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
    from maxcrops.cli import _format

    if markdown:
        typer.echo(_format.families_markdown())
        return
    chosen: list[Spec] = [named_spec(model, settings)] if model else [get_spec(key) for key in list_specs()]
    if image is not None and sheet is None:
        raise ValueError("--image is the image of a sheet: give --sheet FILE too")
    if sheet is not None:
        from maxcrops.drawing import draw_sheet

        _require_image_suffix(sheet)
        drawn = chosen if model else [family.spec for family in FAMILIES]
        draw_sheet(drawn, None if image is None else _open_upright(image)).save(sheet)
        typer.echo(f"wrote {sheet}: {plural(len(drawn), 'model')}")
        return
    if as_json:
        _print_json([spec.to_dict() for spec in chosen])
        return
    out = _format.console()
    if model:
        out.print("\n".join(_format.spec_lines(chosen[0])), highlight=False, soft_wrap=True)
    else:
        out.print(_format.specs_table(chosen))


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


def _read(images: list[str], workers: int, *, verify: bool = False) -> list[ImageFile]:
    """Sizes of the files, with a progress bar where there are many."""
    from PIL import Image

    from maxcrops.data import find_images, read_sizes

    skipped: list[Path] = []
    paths = list(find_images(images, on_skip=skipped.append))
    if skipped:
        note(f"left out {plural(len(skipped), 'file')} without the suffix of an image, such as {skipped[0]}")
    if not paths:
        raise ValueError(f"no images found in {', '.join(images)}")
    reading = read_sizes(paths, workers=workers, verify=verify)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if not verify:
            Image.MAX_IMAGE_PIXELS = None  # a limit on decoding, and headers alone are read here
        if len(paths) < _PROGRESS_FROM:
            return list(reading)
        from maxcrops.cli import _format

        with _format.progress() as bar:
            return list(bar.track(reading, total=len(paths), description="reading headers"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _require_image_suffix(output: Path) -> None:
    from PIL import Image

    if output.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{output} must have the suffix of an image format, such as .png")


def _open_upright(path: Path) -> Image:
    """An image's pixels, with EXIF orientation applied."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be drawn ({error}); maxcrops count reads its header alone") from error


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


def _print_unreadable(files: list[ImageFile]) -> None:
    from maxcrops.cli import _format

    for line in _format.unreadable_lines(files):
        note(line)


def _print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")
