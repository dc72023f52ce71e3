"""Tables and lines for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from maxcrops.cli._options import plural

if TYPE_CHECKING:
    from rich.progress import Progress

    from maxcrops.data import ImageFile
    from maxcrops.profiling.harness import Row
    from maxcrops.profiling.probe import Probe
    from maxcrops.profiling.sweep_result import Sweep


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


def worst_case_title(max_side: int | None, max_ratio: float | None) -> str:
    if max_side is None:
        return "Worst case over all image sizes, exact"
    ratio = "" if max_ratio is None else f" and a ratio of {max_ratio:g}"
    return f"Worst case over all images up to {max_side} px a side{ratio}, exact"


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
        " work by the peer with as many threads, in the same dtype, or to what a row's name says it is against; times"
        " the floor: time relative to filling the"
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


def sweep_table(sweep: Sweep) -> Table:
    """A row per max_crops."""
    columns = (
        "max_crops", "batch", "label", "accuracy", f"{sweep.level:.0%} limits", "gain", "ms a question", "peak MiB",
        "image tokens", "predicted", "message",
    )  # fmt: skip
    cells = []
    for row in sweep.rows:
        peak = row.allocated_bytes if row.allocated_bytes is not None else row.peak_rss_bytes
        seconds = (
            None
            if row.preprocess_seconds is None or row.generate_seconds is None
            else row.preprocess_seconds + row.generate_seconds
        )
        low, high = row.accuracy_low, row.accuracy_high
        cells.append(
            [
                str(row.max_crops),
                str(row.batch_size or ""),
                f"[{'green' if row.label == 'ok' else 'red'}]{row.label}[/]",
                "" if row.accuracy is None else f"{100 * row.accuracy:.1f}",
                "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}",
                "" if row.gain is None else f"{100 * row.gain:+.1f}",
                _ms_if(seconds),
                "" if peak is None else f"{peak / 2**20:,.0f}",
                "" if row.image_tokens_mean is None else f"{row.image_tokens_mean:,.1f}",
                "" if row.predicted_image_tokens_mean is None else f"{row.predicted_image_tokens_mean:,.1f}",
                escape(row.message),
            ]
        )
    title = (
        f"{escape(sweep.spec_key)} on {escape(sweep.device)}, {sweep.dtype}: {sweep.questions} questions,"
        f" {escape(sweep.metric)} in percent"
    )
    return table(title, columns, cells, left=("label", "message"))


def _ms_if(seconds: float | None) -> str:
    return "" if seconds is None else _ms(seconds)


# -- files -----------------------------------------------------------------------------------------------


def unreadable_lines(files: Sequence[ImageFile]) -> list[str]:
    """Every file that was left out, by name and reason."""
    if not files:
        return []
    return [
        f"{plural(len(files), 'file')} could not be read:",
        *(f"  {printable(file.path)}: {file.error}" for file in files),
    ]
