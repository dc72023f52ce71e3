"""Comparisons for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from maxcrops.cli._format import cell, grid_text, table, worst_case_title
from maxcrops.cli._options import plural
from maxcrops.planning import Comparison

MOST_COMPARED = 12
"""Images that get lines of their own."""


def comparison_table(comparison: Comparison, paths: Sequence[str | None]) -> Table:
    """A line an image and model; the image is named on the first of its lines."""
    rows = []
    for at, (path, (height, width)) in enumerate(zip(paths, comparison.sizes.tolist(), strict=True)):
        for model in comparison.models:
            costs = model.costs(at)
            first = model is comparison.models[0]
            rows.append(
                [
                    f"{height}x{width}" if first else "",
                    escape(model.name),
                    grid_text((costs["rows"], costs["cols"])),
                    str(costs["num_crops"]),
                    str(costs["sequence_tokens"]),
                    *_keys_cell(comparison, costs["cross_attention_keys"]),
                    *([cell(path or "") if first else ""] if any(paths) else []),
                ]
            )
    columns = ["height x width", "model", "grid", "crops", "sequence tokens", *_keys_column(comparison)]
    columns += ["image"] if any(paths) else []
    return table("", columns, rows, left=("height x width", "model", "image"))


def comparison_summary(comparison: Comparison) -> Table:
    """A line a model over all images, another for its cross-attention keys."""
    rows = []
    for model in comparison.models:
        for count, of in model.distributions.items():
            if count != "crops":
                crops = model.distributions["crops"]
                rows.append(
                    [
                        escape(model.name),
                        f"{crops.mean:.1f}",
                        count.replace("_", " "),
                        *(f"{value:.0f}" for value in (model.totals[count], of.mean, of.p50, of.p90, of.max)),
                    ]
                )
    columns = ("model", "crops mean", "", "total", "mean", "p50", "p90", "max")
    return table(f"{plural(len(comparison.sizes), 'image')}", columns, rows, left=("model", ""))


def worst_cases_table(comparison: Comparison) -> Table:
    """A line a model: its setting, and what no image exceeds."""
    rows = []
    for model in comparison.models:
        worst = model.worst_case
        at = ["", ""] if worst is None else [grid_text(worst.grid), f"{worst.witness[0]}x{worst.witness[1]}"]
        keys = model.worst_case_keys
        rows.append(
            [
                escape(model.name),
                model.spec.knob,
                str(model.max_crops),
                "unbounded" if worst is None else str(worst.tokens),
                *_keys_cell(comparison, None if keys is None else keys.tokens),
                *at,
            ]
        )
    columns = ("model", "knob", "max_crops", "worst tokens", *_keys_column(comparison), "at grid", "by an image of")
    return table(worst_case_title(comparison.max_side, comparison.max_ratio), columns, rows, left=("model", "knob"))


def unbounded_lines(comparison: Comparison) -> list[str]:
    """Why models have no worst case, and what gives them one."""
    without = [model for model in comparison.models if model.worst_case is None]
    lines = [f"{model.name}: {model.spec.unbounded}." for model in without]
    return [escape(line) for line in lines] + (["--max-side 4096, say, gives these a worst case."] if without else [])


def _keys_column(comparison: Comparison) -> list[str]:
    """Cross-attention keys have a column where a model has them."""
    return ["keys"] if any(model.cross_attention_keys is not None for model in comparison.models) else []


def _keys_cell(comparison: Comparison, keys: int | None) -> list[str]:
    return ["" if keys is None else str(keys) for _ in _keys_column(comparison)]
