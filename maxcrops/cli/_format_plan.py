"""The plan for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from maxcrops.cli._format import grid_text, table, worst_case_title
from maxcrops.cli._options import plural
from maxcrops.planning import Plan, PlanRow, RuleOfThumb
from maxcrops.planning.rule_of_thumb import RECOMMENDATIONS, TOKENS_PER_CROP, TOKENS_PER_CROP_WITH_SPECIALS

if TYPE_CHECKING:
    from maxcrops.planning import Use

NOT_VALIDATED = "not yet validated on a GPU"

WIDE = 120
"""Columns of a terminal that hold every column of the plan."""

_MOST_LINES = 50

_STYLES = {"safe": "green", "tight": "yellow", "over": "red"}


def plan_headline(plan: Plan) -> list[str]:
    """The question, the answer and why."""
    spec = plan.spec
    several = f", {plan.images_per_sample} images a sample" if plan.images_per_sample > 1 else ""
    source = plan.sequence_length_source
    if source == "default":
        source = "assumed; set --max-sequence-length"
    lines = [
        f"[b]{spec.key}[/b]: {escape(spec.description)}",
        f"knob {spec.knob}, default {spec.max_crops} crops; sequence {plan.max_sequence_length} tokens"
        f" ({source}), {plan.text_tokens} for text{several}",
        "",
    ]
    binding = plan.binding
    if plan.largest_max_crops is None:
        lines.append(
            f"[red]No max_crops is safe[/red]: {plan.rows[0].max_crops} already needs {_of_available(binding)}"
            f" ({binding.limit} limit)."
        )
    else:
        setting = f" ({spec.knob}={plan.knob_value})" if plan.knob_value != plan.largest_max_crops else ""
        answer = f"Largest safe max_crops: [b]{plan.largest_max_crops}[/b]{escape(setting)}."
        following = plan.next_row
        if plan.knob_ends or following is None:
            reason = f" The knob ends there; {_amount(binding.spare, binding)} are left of the {binding.limit} limit."
        else:
            use = following.binding
            here = next(own for row in plan.rows for own in row.uses
                        if row.max_crops == plan.largest_max_crops and own.limit == use.limit)  # fmt: skip
            spare = f" {_amount(here.spare, here)} to spare;" if here.used else ""
            reason = (
                f" The {use.limit} limit binds:{spare}"
                f" {following.max_crops} can need {_amount(use.used, use)},"
                f" {_amount(-use.spare, use).removesuffix(f' {use.unit}')} over."
            )
        lines.append(answer + reason)
    style = _STYLES[plan.row.verdict]
    lines.append(
        f"max_crops {plan.max_crops} is [{style}]{plan.row.verdict}[/{style}]: its worst case is {plan.row.tokens}"
        f" tokens ({plan.row.grid[0]} x {plan.row.grid[1]} crops, an image of"
        f" {plan.row.witness[0]} x {plan.row.witness[1]} px)."
    )
    if plan.knee is not None:
        lines.append(
            f"For the {plural(plan.num_images, 'image')}, more crops stop paying at [b]{plan.knee}[/b]:"
            " 99% of the detail that the values which fit can keep."
        )
    return lines


def _amount(value: int, use: Use) -> str:
    """A value of a limit with its unit."""
    if use.unit == "bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value} {use.unit}" if use.unit != "FLOPs" else f"{value / 1e12:.2f} TFLOP"


def _of_available(use: Use) -> str:
    """What is used of what there is."""
    if use.unit in ("bytes", "FLOPs"):
        return f"{_amount(use.used, use)} of {_amount(use.available, use)}"
    return f"{use.used} of {use.available} {use.unit}"


def runs_table(plan: Plan) -> Table:
    """The dry run of each value: memory, time, launches, and where the numbers come from."""
    first = next(iter(plan.runs.values()))
    rows = []
    for value, run in sorted(plan.runs.items()):
        launches = f"[red]{escape(run.launches[0].dimension)} {run.launches[0].size}[/red]" if run.launches else "pass"
        rows.append(
            [
                f"{value}*" if value == plan.max_crops else str(value),
                f"{run.needed_bytes / 2**30:.2f}",
                f"{(run.device.memory_bytes - run.needed_bytes) / 2**30:.2f}",
                f"{run.peak_bytes / 2**30:.2f}",
                f"{run.total_flops / 1e12:.1f}",
                "" if run.latency_ms is None else f"{run.latency_ms:.0f}",
                launches,
                *([_largest_batch(plan, value)] if plan.frontier else []),
                run.evidence,
                run.peak_module or run.peak_phase,
            ]
        )
    columns = (
        "max_crops",
        "needs GiB",
        "spare GiB",
        "allocated GiB",
        "TFLOP",
        "ms (estimate)",
        "launches",
        *(["largest batch (limit)"] if plan.frontier else []),
        "evidence",
        "peak in",
    )
    title = (
        f"{first.mode}, batch {plan.batch_size}, {first.dtype} on {first.device.name}"
        f" ({first.device.memory_bytes / 2**30:.1f} GiB); {NOT_VALIDATED}"
    )
    return table(title, columns, rows, left=("peak in",))


def _largest_batch(plan: Plan, value: int) -> str:
    largest = plan.frontier[value]
    return f"{largest.batch_size} ({largest.binding})" if largest.binding else f"{largest.batch_size} or more"


def runs_footer(plan: Plan) -> list[str]:
    """What was assumed, and what to do about launches that fail."""
    first = next(iter(plan.runs.values()))
    *assumed, context = first.assumptions
    kernels = dict.fromkeys(kernel for run in plan.runs.values() for kernel in run.attention_kernels)
    lines = [
        f"needs: what the simulated allocator survives, and {context}. Assumed: {'; '.join(assumed)}:"
        f" {', '.join(kernels) or 'none'}."
    ]
    failing = next((run for _, run in sorted(plan.runs.items()) if run.launches), None)
    if failing is not None:
        launch = failing.launches[0]
        lines.append(
            f"{failing.max_crops} crops: {launch.operator} ({launch.kernel}) in {launch.module} would launch"
            f" {launch.dimension} = {launch.size}, CUDA allows {launch.limit} ({launch.reference}); {launch.remedy}."
        )
    return [escape(line) for line in lines]


def plan_table(plan: Plan, *, every: bool = False, narrow: bool = False) -> Table:
    """One line a value; neighbours with the same worst case share one.

    Args:
        plan: the plan.
        every: print every line, not only those around the answer.
        narrow: leave out the costs beside the sequence.
    """
    rows: list[list[str]] = []
    for run in _shown(_runs(plan.rows, _worst_case), plan, every):
        if not run:
            rows.append(["..."])
            continue
        row = run[0]
        style = _STYLES[row.verdict]
        rows.append(
            [
                _run_name(run, plan),
                str(row.tokens),
                grid_text(row.grid),
                str(row.left_for_text),
                str(row.uses[0].spare),
                f"[{style}]{row.verdict}[/{style}]",
                f"{row.attention:.2f}x",
                str(row.num_crops),
                str(row.connector_outputs),
                "" if row.vit_patches is None else str(row.vit_patches),
            ]
        )
    columns = (
        "max_crops",
        "worst tokens",
        "at grid",
        "left for text",
        "to spare",
        "verdict",
        "attention",
        "crops",
        "connector outputs",
        "ViT patches",
    )
    kept = 7 if narrow else len(columns)
    title = worst_case_title(plan.max_side, plan.max_ratio)
    return table(title, columns[:kept], [row[:kept] for row in rows])


def plan_footer(plan: Plan) -> str:
    """How to read the table."""
    return (
        f"* asked for. over: some image does not fit beside {plan.text_tokens} tokens of text; tight: every image fits"
        f" with fewer than {plan.tight_margin} tokens to spare; safe: with more. attention: prefill of the language"
        f" model, relative to max_crops {plan.spec.max_crops}. Each column is a maximum of its own."
    )


def images_table(plan: Plan, *, every: bool = False) -> Table:
    """The given images at each value; neighbours that make no difference to them share a line."""
    rows: list[list[str]] = []
    for run in _shown(_runs(plan.rows, lambda row: row.images), plan, every):
        images = run[0].images if run else None
        if images is None:
            rows.append(["..."])
            continue
        shrink, tokens = images.shrink, images.tokens
        rows.append(
            [
                _run_name(run, plan) + (" <" if any(row.max_crops == plan.knee for row in run) else ""),
                f"{images.num_full_resolution} ({images.num_full_resolution / images.num_images:.0%})",
                *(f"{value:.2f}" for value in (shrink.mean, shrink.p50, shrink.p90, shrink.p99, shrink.max)),
                *(f"{value:.0f}" for value in (tokens.mean, tokens.p50, tokens.p90, tokens.p99, tokens.max)),
                str(images.num_over),
            ]
        )
    columns = ["max_crops", "full resolution"]
    columns += ["shrink mean", "p50", "p90", "p99", "max"]
    columns += ["tokens mean", "p50", "p90", "p99", "max"]
    columns += ["do not fit"]
    return table(
        f"The {plural(plan.num_images, 'image')} (shrink: by how much sides are shrunk; < knee)", columns, rows
    )


def rule_of_thumb_table(plan: Plan, rules: Sequence[RuleOfThumb], exact: Sequence[PlanRow]) -> Table:
    """The estimate beside the exact numbers."""
    rows = []
    by_value = {row.max_crops: row for row in exact}
    for rule in rules:
        row = by_value.get(rule.max_crops)
        left = str(rule.left_for_text) if rule.left_for_text >= 0 else "< 0"
        tokens = str(rule.tokens) if rule.left_for_text >= 0 else f"> {plan.max_sequence_length}"
        rows.append(
            [
                str(rule.max_crops),
                f"{tokens} / {left}",
                rule.verdict,
                str(rule.tokens_with_specials),
                f"{row.tokens} / {row.left_for_text}" if row else "",
                f"[{_STYLES[row.verdict]}]{row.verdict}[/{_STYLES[row.verdict]}]" if row else "",
            ]
        )
    columns = (
        "max_crops",
        "estimate: tokens / left for text",
        "its verdict",
        f"at {TOKENS_PER_CROP_WITH_SPECIALS} a crop",
        "exact: worst tokens / left for text",
        "exact verdict",
    )
    title = f"Rule of thumb, {TOKENS_PER_CROP} to {TOKENS_PER_CROP_WITH_SPECIALS} tokens a crop, beside the exact bound"
    return table(title, columns, rows, left=("its verdict",))


def rule_of_thumb_recommendations() -> list[str]:
    """What the rule recommends, by use."""
    return ["The rule recommends, by use:", *(f"  {crops:>8}  {use}" for use, crops in RECOMMENDATIONS)]


def _worst_case(row: PlanRow) -> object:
    return (row.tokens, row.grid, row.num_crops, row.connector_outputs, row.vit_patches)


def _runs(rows: Sequence[PlanRow], key: Callable[[PlanRow], object]) -> list[list[PlanRow]]:
    """Consecutive values with the same key."""
    runs: list[list[PlanRow]] = []
    for row in rows:
        last = runs[-1][-1] if runs else None
        if last is not None and row.max_crops == last.max_crops + 1 and key(row) == key(last):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _shown(runs: list[list[PlanRow]], plan: Plan, every: bool) -> list[list[PlanRow]]:
    """The runs to print: all while they are few, otherwise some from the start to the end and those that matter.

    An empty run stands for those left out.
    """
    if every or len(runs) <= _MOST_LINES:
        return runs
    stride = len(runs) // 12
    answer = plan.largest_max_crops or 0
    marked = (plan.max_crops, plan.spec.max_crops, plan.knee)
    shown: list[list[PlanRow]] = []
    for index, run in enumerate(runs):
        first, last = run[0].max_crops, run[-1].max_crops
        near = first - 4 <= answer <= last + 4 or any(value and first <= value <= last for value in marked)
        if near or index % stride == 0 or index == len(runs) - 1:
            shown.append(run)
        elif shown[-1]:
            shown.append([])
    return shown


def _run_name(run: Sequence[PlanRow], plan: Plan) -> str:
    """The values of a run, marked when the asked-for one is among them."""
    first, last = run[0].max_crops, run[-1].max_crops
    asked = "*" if first <= plan.max_crops <= last else ""
    return (str(first) if first == last else f"{first}-{last}") + asked
