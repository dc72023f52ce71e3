"""Specs and their sources for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from maxcrops._bounds import worst_case
from maxcrops.cli._format import table
from maxcrops.cli._options import plural
from maxcrops.specs import FAMILIES, Source, Spec


def specs_table(specs: Sequence[Spec]) -> Table:
    """One line a spec."""
    rows = [
        [
            spec.key,
            spec.family,
            spec.grid.policy,
            f"{spec.crop_size} px",
            str(spec.max_crops),
            spec.knob,
            _source_text(spec.sources[0]),
        ]
        for spec in specs
    ]
    columns = ("model", "family", "grid policy", "crop", "max_crops", "knob", "source")
    return table("", columns, rows, left=("model", "family", "grid policy", "knob", "source"))


def families_markdown() -> str:
    """The README's table: one line a family, from the registry."""
    lines = [
        "| model | cut | knob = default | worst case at default | checked against |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for family in FAMILIES:
        spec = family.spec
        keys = ", ".join(f"`{key}`" for key in family.specs())
        knob = spec.knob_value
        default = f"{len(knob)} sizes" if isinstance(knob, tuple) else str(knob)
        knob_text = f"`{spec.knob}` = {default}" if spec.grid.knob_field else f"`{spec.knob}`"
        cut = spec.grid.policy
        for choice, values in spec.choices.items():
            policies = {changes["grid"].policy for changes in values.values() if "grid" in changes}
            if len(policies) > 1:
                cut = f"{spec.grid.policy}; by `{choice}` {', '.join(sorted(policies - {spec.grid.policy}))}"
        processor = any(source.where.startswith("transformers ") for source in spec.sources)
        evidence = "its processor in transformers" if processor else "a reference of our own"
        lines.append(f"| {keys} | {cut} | {knob_text} | {_worst_text(spec)} | {evidence} |")
    return "\n".join(lines)


def _worst_text(spec: Spec) -> str:
    if spec.unbounded is not None:
        return "unbounded"
    tokens = str(worst_case(spec).tokens)
    keys = worst_case(spec, count="cross_attention_keys").tokens
    return f"{tokens} and {keys} keys" if keys else tokens


def spec_lines(spec: Spec) -> list[str]:
    """One spec in full."""
    unused = spec.unused()
    crops = f"which max_crops sets; {plural(spec.max_crops, 'local crop')} at the model's setting"
    knob = "without effect on a fixed grid" if spec.grid.knob_field is None else crops
    lines = [f"[b]{spec.key}[/b]: {escape(spec.description)}"]
    lines += [f"[yellow]unverified[/yellow] {what}: {escape(why)}" for what, why in _unverified(spec)]
    lines += [f"published: {', '.join(spec.checkpoints)}"] if spec.checkpoints else []
    lines += ["", f"knob: {spec.knob}, {knob}"]
    for choice, values in spec.choices.items():
        chosen = spec.chosen.get(choice, next(iter(values)))
        others = [value for value in values if value != chosen]
        lines.append(f"choice: {choice} = {chosen}" + (f", or {', '.join(others)}" if others else ""))
    lines += ["", "[b]fields[/b]"]
    lines += [escape(f"  {name} = {value!r}") for name, value in spec.fields().items() if name not in unused]
    if spec.max_sequence_length is not None:
        lines.append(f"  max_sequence_length = {spec.max_sequence_length}")
    lines += [f"  without effect: {', '.join(unused)}"] if unused else []
    lines += [escape(f"taken: {taken.field} = {taken.value!r} from {taken.file}: {taken.key}") for taken in spec.taken]
    lines += [f"not found, class default: {', '.join(spec.defaulted)}"] if spec.defaulted else []
    lines += ["", "[b]sources[/b]"]
    lines += [f"  {escape(source.what)}: {_source_text(source)}" for source in spec.sources]
    lines += ["", "[b]caveats[/b]", *(escape(f"  - {caveat}") for caveat in spec.caveats)] if spec.caveats else []
    return lines


def _unverified(spec: Spec) -> list[tuple[str, str]]:
    """What nobody compared, and where it comes from instead."""
    return [(source.what, source.unverified) for source in spec.sources if source.unverified is not None]


def _source_text(source: Source) -> str:
    checked = escape(source.checked)
    return f"{escape(source.where)} ({checked if source.unverified is None else f'[yellow]{checked}[/yellow]'})"
