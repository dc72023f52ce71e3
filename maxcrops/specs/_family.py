"""A family: its class defaults, its published checkpoints, and where its folders keep the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from maxcrops.specs._spec import Source, Spec

Document = Literal["image_processor", "processor", "config", "training"]
"""The parts of a model folder, as transformers reads them: preprocessor_config.json, or the part
``image_processor`` of processor_config.json, which goes first; processor_config.json; config.json; and the
configuration of a training run (config.yaml or model.yaml)."""


@dataclass(frozen=True)
class Read:
    """One field of the spec and where a folder keeps it."""

    field: str
    document: Document
    key: str
    """Dotted path; in a training configuration, the last parts of one."""
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published checkpoint whose settings differ from the class defaults, or share a name of their own."""

    repositories: tuple[str, ...]
    where: str
    """Address of the configuration that was read."""
    checked: str
    """As for Source."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    unverified: tuple[str, ...] = ()
    """The fields that ``checked`` calls unverified; all that a folder of the family states where it names none."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one family file defines."""

    spec: Spec
    """Class defaults."""
    processor_classes: tuple[str, ...] = ()
    """How its folders are recognised, strongest first."""
    model_types: tuple[str, ...] = ()
    image_processor_types: tuple[str, ...] = ()
    training_keys: tuple[str, ...] = ()
    """Keys that only its training configurations have."""
    reads: tuple[Read, ...] = ()
    training_changes: Mapping[str, Any] = field(default_factory=dict)
    """What else a training configuration implies."""
    derive: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None
    """(defaults, read values) -> read values, for folders that state a number in another form."""
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)

    def specs(self) -> dict[str, Spec]:
        """Every spec of the family by key."""
        specs = {self.spec.key: self.spec}
        for key, checkpoint in self.checkpoints.items():
            source = Source("published settings", checkpoint.where, checkpoint.checked)
            spec = self.spec.replace(**checkpoint.changes)
            stated = tuple(dict.fromkeys(read.field for read in self.reads if spec.has_setting(read.field)))
            specs[key] = replace(
                spec,
                key=key,
                checkpoints=checkpoint.repositories,
                sources=(source, *self.spec.sources),
                unverified=(checkpoint.unverified or stated) if source.unverified else (),
            )
        return specs


def positive(value: Any) -> int:
    """A whole number of at least 1, as it stands in a file: no string, no float, no boolean."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("it must be a whole number of at least 1")
    return value


def square(value: Any) -> int:
    """The side of a square size in any of the forms that configurations use."""
    if isinstance(value, Mapping):
        sides = {value[name] for name in ("height", "width", "shortest_edge", "longest_edge") if value.get(name)}
    elif isinstance(value, (list, tuple)):
        sides = set(value)
    else:
        sides = {value}
    if len(sides) != 1:
        raise ValueError(f"only square crops are known, got {value!r}")
    return positive(sides.pop())


def both_sides(value: Any) -> tuple[int, int]:
    """(k, k) of a factor k of both sides."""
    return positive(value), positive(value)


def flag(value: Any) -> str:
    """The name of a choice between true and false."""
    return str(value).lower()


def pair(value: Any) -> tuple[int, int]:
    """Two whole numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or any(type(item) is not int for item in value):
        raise ValueError("it must be a pair of whole numbers")
    return value[0], value[1]


def pairs(value: Any) -> tuple[tuple[int, int], ...]:
    """A list of (height, width)."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("it must be a list of (height, width)")
    return tuple(pair(item) for item in value)


def three_numbers(value: Any) -> tuple[float, float, float]:
    """A mean or a standard deviation of three channels."""
    if not isinstance(value, (list, tuple)) or len(value) != 3 or any(type(v) not in (int, float) for v in value):
        raise ValueError("it must be a list of three numbers")
    return float(value[0]), float(value[1]), float(value[2])
