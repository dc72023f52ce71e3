"""Arguments and options that commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maxcrops.exceptions import UnknownSpecError
from maxcrops.specs import Spec, get_spec
from maxcrops.specs.loading import load_spec

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def resolve_model(model: str, settings: list[str] | None) -> Spec:
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


def _value(text: str) -> Any:
    """JSON where it is (numbers, lists, true, null), otherwise the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def plural(count: int, noun: str) -> str:
    """`count` and the noun in its number."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
