"""Specs from model folders: what the files say, and which file said what."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from maxcrops.exceptions import ConfigError, UnknownSpecError, UnsupportedError
from maxcrops.specs import FAMILIES, Family, nearest_keys
from maxcrops.specs._family import Document, Read
from maxcrops.specs._spec import Spec, Taken
from maxcrops.specs._training_config import read_settings
from maxcrops.specs.native import refuse

_TRAINING_FILES = ("config.yaml", "model.yaml")
_FILES = ("processor_config.json", "preprocessor_config.json", "config.json", *_TRAINING_FILES)


@dataclass(frozen=True)
class _File:
    """One part of a folder, and where it stands."""

    name: str
    prefix: str
    values: dict[str, Any]

    def get(self, key: str) -> tuple[str, Any] | None:
        """(full key, value) of a dotted path, or None."""
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return f"{self.prefix}{key}", value


class _TrainingFile(_File):
    """Settings under whatever path the run nested them: the model's own, then the shallowest."""

    def get(self, key: str) -> tuple[str, Any] | None:
        paths = [path for path in self.values if path == key or path.endswith(f".{key}")]
        if not paths:
            return None

        def rank(path: str) -> tuple[bool, int]:
            return not path.startswith("model."), path.count(".")

        nearest = [path for path in paths if rank(path) == min(map(rank, paths))]
        if any(self.values[path] != self.values[nearest[0]] for path in nearest):
            raise ValueError(f"{self.name}: {key} has different values at {' and '.join(sorted(nearest))}")
        return nearest[0], self.values[nearest[0]]


def load_spec(folder: str | PathLike[str]) -> Spec:
    """The spec of the model in a folder.

    Reads ``processor_config.json``, ``preprocessor_config.json`` and ``config.json`` as transformers does (an image
    processor nested in the first goes before the second), or the ``config.yaml`` / ``model.yaml`` of a training run.
    What no file says keeps the family's class default.

    Args:
        folder: the folder, or one of these files.

    Returns:
        A Spec whose ``taken`` tells which value came from which file and key.

    Raises:
        FileNotFoundError: no such folder, or none of these files in it.
        UnknownSpecError: the files name no known model; the message says what they name and the nearest known ones.
        UnsupportedError: they name a model that encodes images at their own resolution and cuts no crops.
        ConfigError: a file cannot be read, or a value does not fit.
    """
    path = Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"[load_spec] no such folder: {path}")
    files = _read_folder(path)
    if not files:
        raise FileNotFoundError(f"[load_spec] {path} holds none of {', '.join(_FILES)}")
    try:
        family = _recognise(files, path)
        return _build(family, files, path)
    except UnsupportedError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[load_spec] {path}: {error}") from error


def holds_model(path: Path) -> bool:
    """Whether a path is a model folder, or one of its files, by names alone; load_spec says which model it is."""
    return (
        path.suffix in (".json", ".yaml", ".yml") if path.is_file() else any((path / name).is_file() for name in _FILES)
    )


def _read_folder(path: Path) -> dict[Document, _File]:
    names = [path] if path.is_file() else sorted(path.iterdir())
    found = {name.name: name for name in names}
    files: dict[Document, _File] = {}
    if "processor_config.json" in found:
        processor = _read_json(found["processor_config.json"])
        files["processor"] = _File("processor_config.json", "", processor)
        if isinstance(processor.get("image_processor"), dict):
            files["image_processor"] = _File("processor_config.json", "image_processor.", processor["image_processor"])
    if "preprocessor_config.json" in found and "image_processor" not in files:
        files["image_processor"] = _File("preprocessor_config.json", "", _read_json(found["preprocessor_config.json"]))
    if "config.json" in found:
        files["config"] = _File("config.json", "", _read_json(found["config.json"]))
    # A file that is named itself may have any name.
    training = path.name if path.suffix in (".yaml", ".yml") else next((n for n in _TRAINING_FILES if n in found), None)
    if training is not None:
        files["training"] = _TrainingFile(training, "", _read_yaml(found[training]))
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"[load_spec] {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"[load_spec] {path} must hold a JSON object, got {type(values).__name__}")
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return read_settings(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[load_spec] {path} cannot be read: {error}") from error


def _recognise(files: dict[Document, _File], path: Path) -> Family:
    """By processor class, then model type, then image processor; or by the keys of a training configuration."""
    named: list[str] = []
    for key, attribute in (
        ("processor_class", "processor_classes"),
        ("model_type", "model_types"),
        ("image_processor_type", "image_processor_types"),
    ):
        for file in files.values():
            value = file.values.get(key)
            if not isinstance(value, str):
                continue
            named.append(value)
            for family in FAMILIES:
                if value in getattr(family, attribute):
                    return family
    if "training" in files:
        # The family with the most of its own keys; at a tie the later one, which keeps its predecessor's.
        training = files["training"]
        scores = [sum(training.get(key) is not None for key in family.training_keys) for family in FAMILIES]
        score, index = max((score, index) for index, score in enumerate(scores))
        if score:
            return FAMILIES[index]
    refuse("load_spec", *named)
    told = f"its files name {', '.join(dict.fromkeys(named))}" if named else "its files name no model"
    words = " ".join(named) or path.name
    nearest = list(dict.fromkeys(key for word in [*named, path.name] for key in nearest_keys(word))) or nearest_keys(
        words
    )
    known = ", ".join(nearest[:4] or [family.spec.key for family in FAMILIES])
    raise UnknownSpecError(f"[load_spec] {path} holds no known model: {told}; the nearest known ones are {known}")


def _build(family: Family, files: dict[Document, _File], path: Path) -> Spec:
    values: dict[str, Any] = dict(family.training_changes) if "training" in files else {}
    taken: list[Taken] = []
    for read in family.reads:
        found = files[read.document].get(read.key) if read.document in files else None
        if found is None or (found[1] is None and read.field != "low_res_col_tokens"):
            continue
        key, value = found
        values[read.field] = _convert(read, value, files[read.document].name, key)
        taken.append(Taken(read.field, values[read.field], files[read.document].name, key))
    if family.derive is not None:
        values = family.derive(family.spec.fields(), values)
        taken = [dataclasses.replace(one, value=values.get(one.field, one.value)) for one in taken]
    readable = {read.field for read in family.reads}
    return dataclasses.replace(
        family.spec.replace(**values),
        description=f"{family.spec.description}; read from {path}",
        taken=tuple(taken),
        defaulted=tuple(dict.fromkeys(name for name in family.spec.fields() if name in readable - values.keys())),
    )


def _convert(read: Read, value: Any, file: str, key: str) -> Any:
    try:
        return read.convert(value)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: {key} = {value!r} cannot be {read.field}: {error}") from error
