"""A picture of a plan. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

from os import PathLike
from typing import Any

from maxcrops.planning._plan import Plan
from maxcrops.planning.dryrun import NOT_VALIDATED

_COLOURS = {"safe": "#2ca02c", "tight": "#e0a400", "over": "#d62728"}

_CATEGORIES = {
    "weights": "#4e79a7",
    "gradients": "#f28e2b",
    "optimizer": "#b07aa1",
    "kv_cache": "#59a14f",
    "activations": "#edc948",
    "temporaries": "#e15759",
}


def plot_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Draws worst case, limit and verdicts over max_crops, and the given images' distribution.

    With dry runs also the memory at the peak by category beside the GPU's, and the largest batch that fits.

    Args:
        plan: from ``maxcrops.plan``.
        path: file to write; its suffix names the format.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("[plot_plan] needs matplotlib: pip install 'maxcrops[plot]'") from error

    panels = 1 + bool(plan.runs) + bool(plan.frontier)
    figure = Figure(figsize=(8.5, 5 if panels == 1 else 3.6 * panels), layout="constrained")
    each = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    _draw_tokens(plan, each[0])
    if plan.runs:
        _draw_memory(plan, each[1])
    if plan.frontier:
        _draw_frontier(plan, each[-1])
    each[-1].set_xlabel("max_crops")
    figure.savefig(path, dpi=150)


def _draw_tokens(plan: Plan, axes: Any) -> None:
    values = [row.max_crops for row in plan.rows]
    several = plan.images_per_sample
    tokens = [row.tokens * several for row in plan.rows]
    points = list(zip(values, tokens, strict=True))
    axes.plot(values, tokens, color="#888888", linewidth=1, zorder=1)
    for verdict, colour in _COLOURS.items():
        chosen = [point for point, row in zip(points, plan.rows, strict=True) if row.verdict == verdict]
        if chosen:
            x, y = zip(*chosen, strict=True)
            axes.scatter(x, y, s=22, color=colour, label=f"worst case, {verdict}", zorder=3)
    if plan.num_images:
        summaries = [(row.max_crops, row.images) for row in plan.rows if row.images is not None]
        crops = [value for value, _ in summaries]
        median = [images.tokens.p50 * several for _, images in summaries]
        high = [images.tokens.p99 * several for _, images in summaries]
        axes.plot(crops, median, color="#1f77b4", label=f"median of {plan.num_images} images")
        axes.fill_between(crops, median, high, color="#1f77b4", alpha=0.15, label="to their 99th percentile")
    budget = plan.max_sequence_length - plan.text_tokens
    axes.axhline(plan.max_sequence_length, color="black", linewidth=1, label="max_sequence_length")
    axes.axhline(budget, color="black", linewidth=1, linestyle="--", label=f"less {plan.text_tokens} tokens of text")
    if plan.largest_max_crops is not None:
        axes.axvline(plan.largest_max_crops, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"largest safe: {plan.largest_max_crops}",
            (plan.largest_max_crops, 0),
            xytext=(-6, 8),
            textcoords="offset points",
            ha="right",
        )
    axes.set_ylabel("sequence tokens" + (f", {several} images" if several > 1 else ""))
    axes.set_title(f"{plan.spec.key}: image tokens over max_crops", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small")


def _draw_memory(plan: Plan, axes: Any) -> None:
    """At the peak by category, the least that the allocator survives, and what the GPU has."""
    values, runs = zip(*sorted(plan.runs.items()), strict=True)
    shares = {category: [run.peak_by_category.get(category, 0) / 2**30 for run in runs] for category in _CATEGORIES}
    shown = {category: share for category, share in shares.items() if any(share)}
    axes.stackplot(
        values,
        *shown.values(),
        colors=[_CATEGORIES[name] for name in shown],
        labels=[n.replace("_", " ") for n in shown],
    )
    axes.plot(values, [run.needed_bytes / 2**30 for run in runs], color="black", marker=".", label="needed")
    device = runs[0].device
    axes.axhline(device.memory_bytes / 2**30, color="#d62728", linestyle="--", label=device.name)
    failing = [value for value, run in zip(values, runs, strict=True) if run.launches]
    if failing:
        axes.axvspan(min(failing), max(values), color="#d62728", alpha=0.12, label="a launch fails")
    axes.set_ylabel("GiB")
    axes.set_title(f"memory at the peak: {runs[0].mode}, batch {plan.batch_size}; {NOT_VALIDATED}", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")


def _draw_frontier(plan: Plan, axes: Any) -> None:
    """The largest batch that fits."""
    values, batches = zip(*sorted(plan.frontier.items()), strict=True)
    axes.plot(values, [batch.batch_size for batch in batches], color="#1f77b4", marker="o", markersize=4)
    axes.axhline(plan.batch_size, color="black", linewidth=0.8, linestyle=":", label=f"batch {plan.batch_size}")
    axes.axhline(plan.max_batch_size, color="#888888", linewidth=0.8, linestyle="--", label="not looked for beyond")
    axes.set_ylabel("samples")
    axes.set_title("largest batch that fits", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
