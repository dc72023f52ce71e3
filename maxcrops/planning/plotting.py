"""A picture of a plan. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

from os import PathLike

from maxcrops.planning._plan import Plan

_COLOURS = {"safe": "#2ca02c", "tight": "#e0a400", "over": "#d62728"}


def plot_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Draws worst case, limit and verdicts over max_crops, and the given images' distribution.

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

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
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
    axes.set_xlabel("max_crops")
    axes.set_ylabel("sequence tokens" + (f", {several} images" if several > 1 else ""))
    axes.set_title(f"{plan.spec.key}: image tokens over max_crops", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=150)
