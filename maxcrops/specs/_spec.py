"""A Spec: one model's rules, what they stand for, and where the numbers come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from maxcrops import _core
from maxcrops.specs._rules import (
    RULES,
    BestResolution,
    CeilGrid,
    CropRule,
    GridRule,
    PixelRule,
    Rule,
    Tiled,
    TokenRule,
    WindowSnap,
    is_integer,
    require_types,
)


@dataclass(frozen=True)
class Source:
    """Where numbers come from."""

    what: str
    where: str
    """A package and version with a path inside it, or an address."""
    checked: str
    """ISO date of the last comparison, and behind a comma what it covered; or ``unverified: `` and where the numbers
    come from instead."""

    @property
    def unverified(self) -> str | None:
        """Where numbers come from that nobody compared; None where they were."""
        mark = "unverified: "
        return self.checked.removeprefix(mark) if self.checked.startswith(mark) else None


@dataclass(frozen=True)
class Taken:
    """One value that load_spec took from a folder."""

    field: str
    value: object
    file: str
    key: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Spec:
    """All that a model's cutting and counting depend on.

    Frozen; ``replace`` gives a changed copy. Every field of the grid, crop, token and pixel rules can also be read from
    the spec itself: ``spec.crop_size``.
    """

    key: str
    """Its name: a transformers model_type for class defaults, or a checkpoint's."""
    family: str
    """The family's key."""
    description: str
    grid: GridRule
    crop: CropRule
    tokens: TokenRule
    pixels: PixelRule | None = None
    """None where pixels are not made yet: such a model is counted and planned only."""
    knob: str
    """What the model itself calls the setting that max_crops sets."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The model's own names of fields, for ``replace``."""
    choices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Named alternatives: choice -> value -> the changes that it stands for. The first value is the default."""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """The value of each choice that is not at its default."""
    set_aside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The rules that choices replaced."""
    max_sequence_length: int | None = None
    """The sequence length in the model's own configuration, tokens, where it is known."""
    checkpoints: tuple[str, ...] = ()
    """Published repositories with exactly these settings."""
    sources: tuple[Source, ...] = ()
    caveats: tuple[str, ...] = ()
    """Oddities of the original, in words."""
    taken: tuple[Taken, ...] = ()
    """What load_spec took from where."""
    defaulted: tuple[str, ...] = ()
    """What load_spec found in no file: these have the family's class default."""
    unverified: tuple[str, ...] = ()
    """Fields and choices of a published checkpoint that nobody compared with its files; ``replace`` with a value of
    one's own takes a field off."""

    @cached_property
    def _core(self) -> _core.Spec:
        for rule in self._rules():
            require_types(self.key, rule)
        return _core.Spec(self.key, self.grid._lower(), self.crop._lower(), self.tokens._lower())

    def __post_init__(self) -> None:
        self._core  # noqa: B018  # validates: ValueError that names the field

    @property
    def max_crops(self) -> int:
        """Most local crops at the spec's own setting, the global crop not included."""
        return self._core.default_max_crops

    @property
    def max_crops_range(self) -> tuple[int, int]:
        """(first, last) max_crops that means something; a larger value acts like the last."""
        return self._core.knob_range

    @property
    def unbounded(self) -> str | None:
        """Why no number of tokens holds for all images; None where one does."""
        if isinstance(self.grid, WindowSnap):
            return "the thinner an image, the smaller the windows that it is cut into"
        if isinstance(self.tokens, Tiled) and self.crop.sizing == "area" and self.tokens.tokens_per_crop is None:
            return "a crop keeps its ratio and costs what its size makes, however thin it is"
        if isinstance(self.tokens, Tiled) and self.tokens.global_tokens == "features":
            return "an image that is not split keeps its ratio and costs what its size makes, however thin it is"
        return None

    def fields(self) -> dict[str, object]:
        """Every field of the grid, crop, token and pixel rules, by name."""
        return {f.name: getattr(rule, f.name) for rule in self._rules() for f in dataclasses.fields(rule)}

    def has_setting(self, name: str) -> bool:
        """Whether `name` is a field of its rules or a choice."""
        return name in self.choices or name in self.fields()

    @property
    def doubt(self) -> str | None:
        """Which settings are unverified and why, in words; None where all were compared."""
        if not self.unverified:
            return None
        why = next((source.unverified for source in self.sources if source.unverified), "nobody compared them")
        verb = "is" if len(self.unverified) == 1 else "are"
        return f"{self.key}: {', '.join(self.unverified)} {verb} unverified ({why})"

    def unused(self) -> tuple[str, ...]:
        """Fields without effect: those that are 0, False or None by default and here, and a missing global crop's."""

        def is_unused(name: str, value: object, default: object) -> bool:
            of_no_global_crop = name.startswith("global_") and self.crop.global_crop == "never" != value
            return of_no_global_crop or (value == default and default in (0, None, (0, 0)))

        return tuple(
            f.name
            for rule in self._rules()
            for f in dataclasses.fields(rule)
            if is_unused(f.name, getattr(rule, f.name), f.default)
        )

    def _rules(self) -> tuple[Rule, ...]:
        return (self.grid, self.crop, self.tokens, *([self.pixels] if self.pixels else []))

    def replace(self, **changes: Any) -> Spec:
        """A copy with some fields changed.

        Args:
            changes: fields of the grid, crop, token and pixel rules, by their name here or by the model's own
                (``max_patches``); ``max_sequence_length``; or a choice (``crop_mode="resize"``).

        Raises:
            TypeError: an unknown field; the message lists the fields.
            ValueError: a value that a rule does not allow.
        """
        own: dict[str, Any] = {"chosen": dict(self.chosen), "set_aside": dict(self.set_aside)}
        if changes:
            own["checkpoints"] = ()
            own["unverified"] = tuple(name for name in self.unverified if name not in self._named_by(changes))
        parts: dict[str, Any] = {"grid": self.grid, "crop": self.crop, "tokens": self.tokens, "pixels": self.pixels}
        fields = {self.aliases.get(name, name): value for name, value in changes.items() if name not in self.choices}
        # A field of the rules as they are is set before a choice replaces a rule, one of the new rule after it.
        fields = _set_fields(parts, fields)
        for choice in (name for name in self.choices if name in changes):
            stands_for = self._choose(choice, changes[choice], own["chosen"])
            # A rule that a choice replaces is kept, with its numbers, for when the choice is taken back.
            replaced = {part: parts[part] for part in stands_for if part in parts}
            if choice in own["chosen"]:
                own["set_aside"].setdefault(choice, replaced)
            else:
                stands_for.update(own["set_aside"].pop(choice, {}))
            remaining = _set_fields(parts, stands_for)
            assert not remaining, f"{self.key}: {choice} changes unknown fields {remaining}"
        fields = _set_fields(parts, fields)
        for name, value in fields.items():
            if name != "max_sequence_length":
                raise TypeError(f"[spec] {self.key} has no field {name!r}; it has {', '.join(self._known_names())}")
            if value is not None and (not is_integer(value) or value < 1):
                raise ValueError(f"[spec] {self.key}: {name} must be an integer of at least 1 or None, got {value!r}")
            own[name] = value
        return dataclasses.replace(self, **parts, **own)

    def _named_by(self, changes: Mapping[str, Any]) -> set[str]:
        """The fields and choices that changes set, also by a whole rule or by the model's own names."""
        named = {self.aliases.get(name, name) for name in changes}
        return named.union(*(_field_names(changes[part]) for part in RULES if part in changes))

    def _choose(self, choice: str, value: object, chosen: dict[str, str]) -> dict[str, Any]:
        """What a choice stands for; notes it in `chosen`. Nothing where it is made already."""
        values = self.choices[choice]
        name = str(value).lower() if isinstance(value, (bool, int)) else value
        if not isinstance(name, str) or name not in values:
            raise ValueError(f"[spec] {choice} of {self.key} must be one of {', '.join(values)}, got {value!r}")
        default = next(iter(values))
        if name == chosen.get(choice, default):
            return {}
        chosen.pop(choice, None)
        if name != default:
            chosen[choice] = name
        return dict(values[name])

    def differences(self, other: Spec) -> dict[str, tuple[object, object]]:
        """Fields of the rules in which two specs differ, as (here, there)."""
        here, there = self.fields(), other.fields()
        return {
            name: (here.get(name), there.get(name))
            for name in [*here, *(name for name in there if name not in here)]
            if here.get(name) != there.get(name)
        }

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            "key": self.key,
            "family": self.family,
            "description": self.description,
            "knob": self.knob,
            "max_crops": self.max_crops,
            "policy": self.grid.policy,
            **self.fields(),
            **self.chosen,
            "max_sequence_length": self.max_sequence_length,
            "checkpoints": list(self.checkpoints),
            "sources": [dataclasses.asdict(source) for source in self.sources],
            "caveats": list(self.caveats),
            "taken": [dataclasses.asdict(taken) for taken in self.taken],
            "defaulted": list(self.defaulted),
            "unverified": list(self.unverified),
        }

    def _known_names(self) -> list[str]:
        return sorted({*self.fields(), *self.aliases, *self.choices, "max_sequence_length"})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for part in ("grid", "crop", "tokens", "pixels"):
                rule = self.__dict__.get(part)
                if rule is not None and name in _field_names(rule):
                    return getattr(rule, name)
        raise AttributeError(f"Spec has no field {name!r}")

    def __repr__(self) -> str:
        knob = f", {self.knob}={self.knob_value!r}" if self.grid.knob_field else ""
        chosen = "".join(f", {name}={value!r}" for name, value in self.chosen.items())
        rules = f"{self.grid.policy}, crop {self.crop_size} px, {type(self.tokens).__name__.lower()} tokens"
        return f"Spec({self.key!r}: {rules}{knob}{chosen})"

    @property
    def knob_value(self) -> object:
        """The setting of the model's own knob, in the model's own unit."""
        return getattr(self.grid, self.grid.knob_field) if self.grid.knob_field else None

    def knob_at(self, max_crops: int) -> object:
        """What the model's own knob is set to for a max_crops, in the model's own unit; None where it has no knob."""
        if isinstance(self.grid, (CeilGrid, WindowSnap)):
            return self._core.edge_at(max_crops)
        if isinstance(self.grid, BestResolution):
            return tuple(self._core.resolutions_at(max_crops))
        return None if self.grid.knob_field is None else max_crops

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_core"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __hash__(self) -> int:
        return hash((self.key, self.grid, self.crop, self.tokens, self.pixels))


def _field_names(data: Any) -> set[str]:
    return set() if data is None else {f.name for f in dataclasses.fields(data)}


def _frozen(value: Any) -> Any:
    """Lists as tuples, NumPy integers as int."""
    if hasattr(value, "__index__") and not isinstance(value, (bool, int)):
        return int(value.__index__())
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _set_fields(parts: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Sets the fields that the parts have, or whole parts, and returns the others."""
    others: dict[str, Any] = {}
    for name, value in fields.items():
        holder = next((part for part, rule in parts.items() if name in _field_names(rule)), None)
        if name in parts:
            if not isinstance(value, RULES[name]):
                known = ", ".join(kind.__name__ for kind in RULES[name])
                raise TypeError(f"[spec] {name} must be one of {known}, got {value!r}; its fields can be set by name")
            parts[name] = value
        elif holder is not None:
            parts[holder] = dataclasses.replace(parts[holder], **{name: _frozen(value)})
        else:
            others[name] = value
    return others
