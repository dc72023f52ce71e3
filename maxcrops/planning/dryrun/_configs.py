"""Model configurations: from a folder, a dict, a transformers object, or shipped by name.

A dry run needs the geometry of a model and no weights, so its ``config.json`` is all that is read. The shipped ones
lie in ``configs/``, one file a model, each with the place its numbers come from. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from maxcrops.exceptions import ConfigError, UnknownSpecError, UnsupportedError


@dataclass(frozen=True)
class ConfigOrigin:
    """Where a shipped configuration's numbers come from."""

    repository: str
    """The published checkpoint: owner/name."""
    source: str
    """Which files the numbers stand in."""
    checked: str
    """When they were compared, as a date."""
    unverified: tuple[str, ...]
    """Dotted keys whose value is likely but was not seen in the checkpoint's own file. The parameters that they make
    add up to the published number."""


@cache
def _files() -> dict[str, dict[str, Any]]:
    folder = resources.files(__package__) / "configs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def _names() -> dict[str, str]:
    """Normalised keys, and repositories with and without their owner -> key."""
    names = {}
    for key, values in _files().items():
        repository: str = values["_repository"]
        for name in (repository, repository.split("/")[-1], key):
            names[_normalised(name)] = key
    return names


def _find(name: str) -> str:
    if (key := _names().get(_normalised(name))) is not None:
        return key
    close = difflib.get_close_matches(_normalised(name), _names(), n=4, cutoff=0.4)
    nearest = list(dict.fromkeys(_names()[match] for match in close)) or list_configs()
    raise UnknownSpecError(
        f"[dry_run] model must be an existing folder with config.json or a shipped configuration, got {name!r};"
        f" the nearest shipped ones are {', '.join(nearest)}"
    )


def list_configs() -> tuple[str, ...]:
    """Names of the shipped configurations, which are the keys of their specs.

    >>> "molmo2-8b" in list_configs()
    True
    """
    return tuple(_files())


def get_config(name: str) -> dict[str, Any]:
    """A shipped configuration, in the keys of its ``config.json``.

    Args:
        name: one of :func:`list_configs`, or the repository it was published in. Hyphens and underscores are equal.

    Returns:
        A copy, the caller's own.

    Raises:
        UnknownSpecError: no such configuration; the message names the nearest ones.

    >>> get_config("allenai/Molmo2-8B")["text_config"]["hidden_size"]
    4096
    """
    values = _files()[_find(name)]
    return _plain({key: value for key, value in values.items() if not key.startswith("_")})


def config_origin(name: str) -> ConfigOrigin:
    """Where a shipped configuration comes from, and which of its values were not verified.

    Raises:
        UnknownSpecError: no such configuration; the message names the nearest ones.
    """
    values = _files()[_find(name)]
    return ConfigOrigin(
        repository=values["_repository"],
        source=values["_source"],
        checked=values["_checked"],
        unverified=tuple(values["_unverified"]),
    )


def load_config(model: str | PathLike[str] | Mapping[str, Any] | Any) -> dict[str, Any]:
    """A model's configuration as a dict.

    Args:
        model: a folder with ``config.json``, or that file; a dict; an object with ``to_dict()``, as transformers'
            configurations; or a name for :func:`get_config`. Where a name is also a path, the path counts.

    Returns:
        A copy as plain JSON data, with ``model_type``.

    Raises:
        FileNotFoundError: a folder without ``config.json``, or a Path that does not exist.
        UnknownSpecError: a string that is neither a path that exists nor a known name.
        ConfigError: a file that holds no JSON object, or a configuration that does not name its ``model_type``.
        UnsupportedError: a model whose code is not in transformers, or quantised weights.
        TypeError: something else.
    """
    if isinstance(model, (str, PathLike)):
        place, config = _read(model)
    elif isinstance(model, Mapping):
        place, config = "model", _plain(model)
    elif callable(to_dict := getattr(model, "to_dict", None)) and not isinstance(model, type):
        place, config = f"model ({type(model).__name__})", _plain(to_dict())
    else:
        raise TypeError(
            f"[dry_run] model must be a folder with config.json, a dict, a transformers configuration or one of the"
            f" shipped names ({', '.join(list_configs())}), got {type(model).__name__}"
        )
    _require_buildable(config, place)
    return config


def _read(model: str | PathLike[str]) -> tuple[str, dict[str, Any]]:
    path = Path(model)
    if not path.exists():
        if isinstance(model, str):
            return f"model {model!r}", get_config(model)
        raise FileNotFoundError(f"[dry_run] model must be an existing folder with config.json, got {path}")
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"[dry_run] model must be a folder with config.json, got {path}, which has none;"
            f" download it beside the processor's files (no weights are needed)"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"[dry_run] {file} must be a JSON file, got: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"[dry_run] {file} must hold a JSON object, got {type(config).__name__}")
    return str(file), config


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy as JSON has it, so that it crosses to another process and keys a cache."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"[dry_run] model must be plain data, as in config.json, got: {error}") from error
    return copy


def _require_buildable(config: Mapping[str, Any], place: str) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ConfigError(
            f"[dry_run] {place} must name its model_type, got {model_type!r};"
            " take the config.json of the whole model, not of one of its parts"
        )
    if config.get("auto_map") and not _is_known(model_type):
        raise UnsupportedError(
            f"[dry_run] {place} must be a model that transformers knows, got model_type {model_type!r}, whose code"
            f" ({', '.join(sorted(map(str, config['auto_map'])))}) comes with its weights and is not run here; take the"
            " checkpoint converted for transformers (often named ...-hf) or a newer transformers"
        )
    if config.get("quantization_config"):
        raise UnsupportedError(
            f"[dry_run] {place} must have unquantised weights, got quantization_config; quantised kernels are not"
            " modelled: remove the key to plan the model in its full precision"
        )


def _is_known(model_type: str) -> bool:
    """Whether the model's code is ours or in the installed transformers, found without importing it."""
    if model_type == "molmo":
        return True
    transformers = importlib.util.find_spec("transformers")
    if transformers is None or transformers.submodule_search_locations is None:
        return True  # Cannot be told here; building the model asks for transformers.
    folder = model_type.replace("-", "_")
    return any((Path(place) / "models" / folder).is_dir() for place in transformers.submodule_search_locations)
