"""Arguments and options that commands share."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maxcrops.exceptions import UnknownSpecError, UnsupportedError
from maxcrops.specs import Spec, get_spec
from maxcrops.specs.loading import holds_model, load_spec

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A known model ([b]maxcrops specs[/b] lists them), a published repository's name, or a model"
        " folder (./NAME where a model is called NAME).",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the model's spec; may be repeated."),
]
MaxCrops = Annotated[
    int | None,
    typer.Option("--max-crops", "-n", help="Local crops; sets the model's own knob. Default: the model's setting."),
]
MaxSide = Annotated[
    int | None,
    typer.Option(help="Longest side of the images that must fit, for models whose cost grows with the ratio."),
]
MaxRatio = Annotated[float | None, typer.Option(help="Largest ratio of their sides, with --max-side.")]
Workers = Annotated[int, typer.Option(min=1, max=1024, help="Threads that read image headers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def resolve_model(model: str, settings: list[str] | None) -> Spec:
    """The spec that MODEL and --set mean; a remark where it rests on settings that nobody compared."""
    spec = named_spec(model, settings)
    if spec.doubt is not None:
        note(f"{spec.doubt}; give the model's folder, or what you know of it: --set {spec.unverified[0]}=...")
    return spec


def named_spec(model: str, settings: list[str] | None) -> Spec:
    """The spec that MODEL and --set mean."""
    spec = _named_or_loaded(model)
    changes: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set must be FIELD=VALUE, got {setting!r}")
        changes[name.strip()] = _value(value.strip())
    return spec.replace(**changes) if changes else spec


def _named_or_loaded(model: str) -> Spec:
    """A known name goes before a folder of that name, which ./NAME means."""
    if not model:
        raise ValueError("MODEL must be a name or a folder, got ''")
    if Path(model).is_absolute() or model.startswith((".", "~")):
        return load_spec(Path(model).expanduser())
    try:
        return get_spec(model)
    except UnknownSpecError:
        if not Path(model).exists():
            raise
    return load_spec(model)


def models_and_images(arguments: list[str]) -> tuple[dict[str, Spec], list[str]]:
    """Tells models from images: specs by their argument, and the arguments that name images.

    A known name, a model folder or one of its files is a model, which settings may follow
    (``gemma3:do_pan_and_scan=true``). Any other path, pattern or name with an image's suffix names images.

    Raises:
        UnknownSpecError: an argument is neither.
        ValueError: none is a model.
    """
    specs: dict[str, Spec] = {}
    images: list[str] = []
    for argument in arguments:
        model, *settings = [argument] if os.path.lexists(argument) or "=" not in argument else argument.split(":")
        if not settings and _names_images(argument):
            images.append(argument)
            continue
        try:
            specs[argument] = resolve_model(model, settings)
        except (UnknownSpecError, FileNotFoundError) as error:
            if os.path.lexists(model):
                raise
            raise UnknownSpecError(
                f"{argument!r} is neither a model nor an image or folder that exists: {error}"
            ) from None
    if not specs:
        raise ValueError(f"no MODEL among {', '.join(arguments)}; maxcrops specs lists those known")
    return specs, images


def _names_images(argument: str) -> bool:
    from maxcrops.data.image_sizes import IMAGE_SUFFIXES

    path = Path(argument)
    if path.suffix.lower() in IMAGE_SUFFIXES or glob.has_magic(argument):
        return True
    return os.path.lexists(path) and not holds_model(path) and not _is_known(argument)


def _is_known(name: str) -> bool:
    try:
        get_spec(name)
    except (UnknownSpecError, UnsupportedError):
        return False
    return True


NUMBER = r"\s*(0*[1-9]\d*)\s*"


def parse_size(option: str, text: str) -> tuple[int, int]:
    """(height, width) of an option's HEIGHTxWIDTH."""
    match = re.fullmatch(f"{NUMBER}x{NUMBER}", text)
    if match is None:
        raise ValueError(f"{option} must be HEIGHTxWIDTH in pixels, got {text!r}")
    return int(match[1]), int(match[2])


def parse_bytes(option: str, text: str) -> int:
    """Bytes of an option's size: 8GB, 400MiB."""
    from maxcrops.planning.devices import get_device

    try:
        return get_device(text).memory_bytes
    except ValueError as error:
        raise ValueError(f"{option} must be a size like 8GB or 400MiB, of at least 256 MiB, got {text!r}") from error


def _value(text: str) -> Any:
    """JSON where it is (numbers, lists, true, null), otherwise the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def note(line: str) -> None:
    """A remark beside the output."""
    typer.echo(line, err=True)


def print_json(data: Any) -> None:
    """Data on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def plural(count: int, noun: str) -> str:
    """`count` and the noun in its number."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
