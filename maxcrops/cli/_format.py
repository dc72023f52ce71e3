"""Tables and lines for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from maxcrops._bounds import worst_case
from maxcrops.cli._options import plural
from maxcrops.planning import Comparison, Plan, PlanRow, RuleOfThumb
from maxcrops.planning.rule_of_thumb import RECOMMENDATIONS, TOKENS_PER_CROP, TOKENS_PER_CROP_WITH_SPECIALS
from maxcrops.specs import FAMILIES, Source, Spec

if TYPE_CHECKING:
    from rich.progress import Progress

    from maxcrops.data import ImageFile
    from maxcrops.planning import Use
    from maxcrops.profiling.harness import Row
    from maxcrops.profiling.probe import Probe

NOT_VALIDATED = "not yet validated on a GPU"

WIDE = 120
"""Columns of a terminal that hold every column of the plan."""

_MOST_LINES = 50

_STYLES = {"safe": "green", "tight": "yellow", "over": "red"}


def console() -> Console:
    """Standard output; where it is not a terminal, lines are as long as they are."""
    return Console(emoji=False) if sys.stdout.isatty() else Console(emoji=False, width=1000)


def progress() -> Progress:
    """A progress bar on standard error; silent where that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str] = ()) -> Table:
    """A table with right-aligned columns, but for those named in `left`."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="")
    for column in columns:
        wraps = column in left and column == columns[-1]
        justify: JustifyMethod = "left" if column in left else "right"
        result.add_column(column, justify=justify, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for row in rows:
        result.add_row(*row)
    return result


def printable(path: str) -> str:
    """A file's name where bytes that are no UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def cell(path: str) -> str:
    """A file's name in a table."""
    return escape(printable(path))


def grid_text(grid: tuple[int, int]) -> str:
    """rows x cols."""
    return f"{grid[0]}x{grid[1]}"


# -- plan ----------------------------------------------------------------------------------------------------------


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
    title = _worst_case_title(plan.max_side, plan.max_ratio)
    return table(title, columns[:kept], [row[:kept] for row in rows])


def _worst_case_title(max_side: int | None, max_ratio: float | None) -> str:
    if max_side is None:
        return "Worst case over all image sizes, exact"
    ratio = "" if max_ratio is None else f" and a ratio of {max_ratio:g}"
    return f"Worst case over all images up to {max_side} px a side{ratio}, exact"


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


# -- compare -------------------------------------------------------------------------------------------------------

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
    return table(_worst_case_title(comparison.max_side, comparison.max_ratio), columns, rows, left=("model", "knob"))


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


# -- bench ---------------------------------------------------------------------------------------------------------


def bench_tables(rows: Sequence[Row]) -> list[Table]:
    """A table a case."""
    columns = ("competitor", "median ms", "p20 to p80", "times the peer", "times the floor")
    tables = []
    for case in dict.fromkeys(row.case for row in rows):
        cells = [
            [
                escape(row.competitor),
                _ms(row.seconds_median),
                f"{_ms(row.seconds_p20)} to {_ms(row.seconds_p80)}",
                "" if row.peer == row.competitor else f"{row.times_peer_median:.3g}",
                "" if row.times_floor_median is None else f"{row.times_floor_median:.3g}",
            ]
            for row in rows
            if row.case == case
        ]
        tables.append(table(escape(case), columns, cells, left=("competitor",)))
    return tables


def bench_footer(machine: Mapping[str, str]) -> str:
    """How to read the tables, and what was measured where."""
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("python", "maxcrops", "numpy", "torch", "transformers") if machine[name]
    )
    load = f"; load average before it {machine['load_average']}" if machine["load_average"] else ""
    return (
        "Milliseconds an image. Outputs were compared before the timing. times the peer: speed relative to the same"
        " work by the peer with as many threads, in the same dtype; times the floor: time relative to filling the"
        f" output and reading the image once, on one thread.\n{machine['cpu']}; {versions}{load}."
    )


def _ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{float(f'{seconds * 1000:.3g}'):,.10g}"


# -- probe ---------------------------------------------------------------------------------------------------------


def probe_table(probe: Probe) -> Table:
    """A row per point; columns of the device that it ran on."""
    on_gpu = any(row.allocated_bytes is not None for row in probe.rows)
    memory = ("allocated GiB", "reserved GiB") if on_gpu else ("peak RSS GiB",)
    columns = (
        "max_crops", "batch", "tokens", "label", "first ms", "warm ms", "p20 to p80", "tokens/s", *memory,
        "preprocess ms", "message",
    )  # fmt: skip
    cells = [
        [
            str(row.max_crops),
            str(row.batch_size),
            str(row.sequence_length),
            f"[{'green' if row.label == 'ok' else 'red'}]{row.label}[/]",
            _ms_if(row.first_seconds),
            _ms_if(row.warm_seconds),
            f"{_ms_if(row.warm_seconds_p20)} to {_ms_if(row.warm_seconds_p80)}" if row.warm_seconds else "",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            *(
                "" if value is None else f"{value / 2**30:.2f}"
                for value in ((row.allocated_bytes, row.reserved_bytes) if on_gpu else (row.peak_rss_bytes,))
            ),
            _ms_if(row.preprocess_seconds),
            escape(row.message),
        ]
        for row in probe.rows
    ]
    title = (
        f"{escape(probe.model_type)} {probe.mode} on {escape(probe.device)}, {probe.dtype}, {probe.attention},"
        f" {probe.text_tokens} tokens of text"
    )
    return table(title, columns, cells, left=("label", "message"))


def probe_footer(probe: Probe) -> list[str]:
    """The largest batches, and what to know of the numbers."""
    lines = []
    for value, search in probe.batches.items():
        found = f"batches of {search.batch_size} work" if search.batch_size else "no batch works"
        failed = "" if search.smallest_failed is None else f"; {search.smallest_failed} failed: {search.binding}"
        advice = f"; {search.advice}" if search.advice else ""
        lines.append(f"max_crops {value}: {found}{failed}{advice}")
    return [*lines, *(f"note: {note}" for note in probe.notes)]


def _ms_if(seconds: float | None) -> str:
    return "" if seconds is None else _ms(seconds)


# -- files and specs -----------------------------------------------------------------------------------------------


def unreadable_lines(files: Sequence[ImageFile]) -> list[str]:
    """Every file that was left out, by name and reason."""
    if not files:
        return []
    return [
        f"{plural(len(files), 'file')} could not be read:",
        *(f"  {printable(file.path)}: {file.error}" for file in files),
    ]


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
