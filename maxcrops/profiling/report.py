"""A sweep as a page to look at: one HTML file that needs no other, and its plots as a picture.

Needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from maxcrops.data.questions import open_image
from maxcrops.profiling.sweep_result import Sweep, SweepRow

_COLOUR, _PREDICTED, _LIMIT, _KNEE = "#1f77b4", "#e0a400", "#d62728", "#2ca02c"

_EXAMPLES = 6
"""Questions that are shown with their image."""
_THUMBNAIL = 240
"""Pixels of its longer side."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.knee { font-size: 1.1rem; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
.wide { overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; } td.text, th.text { text-align: left; white-space: normal; }
tr.failed { background: #fbeaea; } tr.at-knee { background: #e9f6e9; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.examples img { max-width: 100%; image-rendering: auto; border: 1px solid #ddd; }
.examples p { margin: 0.2rem 0; } .right { color: #1b7a1b; } .wrong { color: #b02a2a; }
"""


def write_report(sweep: Sweep, folder: str | PathLike[str]) -> None:
    """Writes report.html and report.png.

    Args:
        sweep: from ``maxcrops.sweep``.
        folder: that is there.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    figure = draw(sweep)
    figure.savefig(Path(folder) / "report.png", dpi=120)
    Path(folder, "report.html").write_text(_page(sweep, _svg(figure)), encoding="utf-8")


# -- plots ---------------------------------------------------------------------------------------------------------


def draw(sweep: Sweep) -> Any:
    """Accuracy, latency, memory and tokens over max_crops: a matplotlib Figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("[sweep] a report needs matplotlib: pip install 'maxcrops[plot]'") from error

    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for axes, fill in zip(panels.flat, (_accuracy, _latency, _memory, _tokens), strict=True):
        fill(sweep, axes)
        axes.set_ylim(0, axes.get_ylim()[1] * (1 if fill is _accuracy else 1.25))  # the legend's place
        axes.grid(alpha=0.3)
        for row in sweep.rows:
            if row.label != "ok":
                axes.axvline(row.max_crops, color=_LIMIT, linewidth=0.8, linestyle=":")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right" if fill is _accuracy else "upper left", fontsize="small")
    for axes in panels[1]:
        axes.set_xlabel("max_crops")
        axes.set_xticks([row.max_crops for row in sweep.rows])
    return figure


def _accuracy(sweep: Sweep, axes: Any) -> None:
    rows = [row for row in sweep.rows if row.accuracy is not None]
    axes.set_title(f"accuracy ({sweep.metric}), with {sweep.level:.0%} limits", loc="left")
    axes.set_ylim(0, 1.02)
    if not rows:
        return
    values = [row.max_crops for row in rows]
    axes.fill_between(
        values, [row.accuracy_low for row in rows], [row.accuracy_high for row in rows], color=_COLOUR, alpha=0.2
    )
    axes.plot(values, [row.accuracy for row in rows], color=_COLOUR, marker="o", markersize=4)
    if sweep.knee is not None and sweep.knee.reached:
        knee = sweep.knee.max_crops
        axes.axvline(knee, color=_KNEE, linestyle="--", label=f"knee: {knee} ({sweep.knee.confidence:.0%} sure)")
    for row in sweep.rows:
        if row.label != "ok":
            axes.annotate(row.label, (row.max_crops, 0.03), rotation=90, fontsize="x-small", color=_LIMIT, ha="right")


def _latency(sweep: Sweep, axes: Any) -> None:
    rows = [row for row in sweep.rows if row.label == "ok" and row.generate_seconds is not None]
    axes.set_title("milliseconds a question", loc="left")
    values = [row.max_crops for row in rows]
    preparing = [1e3 * (row.preprocess_seconds or 0.0) for row in rows]
    whole = [of_row + 1e3 * (row.generate_seconds or 0.0) for of_row, row in zip(preparing, rows, strict=True)]
    axes.fill_between(values, preparing, color="#b07aa1", alpha=0.5, label="preparing image and text")
    axes.plot(values, whole, color=_COLOUR, marker="o", markersize=4, label="and answering")
    warm = [row for row in rows if row.warm_seconds is not None]
    if warm:
        axes.fill_between(
            [row.max_crops for row in warm],
            [1e3 * (row.warm_seconds_p20 or 0.0) / row.batch_size for row in warm],
            [1e3 * (row.warm_seconds_p80 or 0.0) / row.batch_size for row in warm],
            color=_COLOUR,
            alpha=0.2,
            label="warm batches, 20th to 80th percentile",
        )


def _memory(sweep: Sweep, axes: Any) -> None:
    axes.set_title("memory, MiB", loc="left")
    for name, words, colour, style in (
        ("allocated_bytes", "allocated", _COLOUR, "-"),
        ("reserved_bytes", "reserved", "#7f7f7f", "-"),
        ("used_bytes", "used beside the imports", _COLOUR, "-"),
        ("fixed_bytes", "weights", "#59a14f", ":"),
        ("predicted_bytes", "predicted for the worst image", _PREDICTED, "--"),
    ):
        rows = _complete(sweep, name)
        if name == "used_bytes" and any(row.allocated_bytes is not None for row in rows):
            continue  # the same
        if rows:
            heights = [getattr(row, name) / 2**20 for row in rows]
            axes.plot(
                [row.max_crops for row in rows],
                heights,
                color=colour,
                linestyle=style,
                marker="o",
                markersize=3,
                label=words,
            )


def _tokens(sweep: Sweep, axes: Any) -> None:
    axes.set_title("image tokens", loc="left")
    for name, words, colour, style in (
        ("worst_case_tokens", "worst image, predicted", _PREDICTED, ":"),
        ("predicted_image_tokens_mean", "mean of the data, predicted", _PREDICTED, "--"),
        ("image_tokens_mean", "mean of the data, measured", _COLOUR, "-"),
    ):
        rows = _complete(sweep, name)
        if rows:
            axes.plot(
                [row.max_crops for row in rows],
                [getattr(row, name) for row in rows],
                color=colour,
                linestyle=style,
                marker="o",
                markersize=3 if style == "-" else 6,
                fillstyle="full" if style == "-" else "none",
                label=words,
            )


def _complete(sweep: Sweep, name: str) -> list[SweepRow]:
    """Points that have a value; one that failed answered other questions than the rest."""
    return [row for row in sweep.rows if row.label == "ok" and getattr(row, name) is not None]


def _svg(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "maxcrops"}):  # the same figure, the same text
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


# -- the page ------------------------------------------------------------------------------------------------------


def _page(sweep: Sweep, plots: str) -> str:
    title = f"{sweep.spec_key} over max_crops"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(_what(sweep))}</p>",
        f'<p class="knee">{_text(" ".join(knee_lines(sweep)))}</p>',
        plots,
        "<h2>Points</h2>",
        _points(sweep),
        *_failures(sweep),
        *_gained(sweep),
        *_quarantined(sweep),
        *_listed("Notes", sweep.notes),
        "<h2>Made with</h2>",
        _table(("", ""), [list(item) for item in _conditions(sweep).items()], text=(0, 1)),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _what(sweep: Sweep) -> str:
    return (
        f"{sweep.model} on {sweep.data}: {sweep.questions} questions, scored by {sweep.metric}, on {sweep.device} in"
        f" {sweep.dtype} with {sweep.attention} attention."
    )


def knee_lines(sweep: Sweep) -> list[str]:
    """What the sweep says about the knee, in sentences."""
    knee = sweep.knee
    if knee is None:
        return ["Fewer than two points are complete, so there is no knee."]
    gain = f"{100 * knee.tolerance:g} percentage points"
    shares = ", ".join(f"{value}: {share:.0%}" for value, share in knee.shares.items())
    sure = f"{knee.confidence:.0%} of the resamples agree ({shares})."
    if not knee.reached:
        return [
            f"No knee below {knee.max_crops}, the largest value: it still gains more than {gain}.",
            f"Sweep further up. {sure}",
        ]
    return [f"Knee at max_crops {knee.max_crops}: no larger value gains more than {gain}.", sure]


def _points(sweep: Sweep) -> str:
    columns = (
        "max_crops", "batch", "label", "answered", "accuracy", "limits", "gain", "limits", "ms a question", "tokens/s",
        "peak MiB", "prompt tokens, mean", "image tokens, mean", "predicted", "worst image",
    )  # fmt: skip
    rows = []
    for row in sweep.rows:
        peak = row.allocated_bytes if row.allocated_bytes is not None else row.peak_rss_bytes
        rows.append(
            [
                row.max_crops,
                row.batch_size or "",
                row.label,
                row.answered,
                _percent(row.accuracy),
                _limits(row.accuracy_low, row.accuracy_high),
                _percent(row.gain, signed=True),
                _limits(row.gain_low, row.gain_high, signed=True),
                _number(_question_ms(row)),
                _number(row.tokens_per_second, 0),
                _number(None if peak is None else peak / 2**20, 0),
                _number(row.prompt_tokens_mean),
                _number(row.image_tokens_mean),
                _number(row.predicted_image_tokens_mean),
                "unbounded" if row.worst_case_tokens is None else row.worst_case_tokens,
            ]
        )
    knee = sweep.knee.max_crops if sweep.knee is not None and sweep.knee.reached else None
    marks = ["failed" if row.label != "ok" else "at-knee" if row.max_crops == knee else "" for row in sweep.rows]
    return _table(columns, rows, marks=marks, text=(2,))


def _failures(sweep: Sweep) -> list[str]:
    failed = [[row.max_crops, row.batch_size or "", row.label, row.message] for row in sweep.rows if row.label != "ok"]
    if not failed:
        return []
    return ["<h2>Points that failed</h2>", _table(("max_crops", "batch", "label", "why"), failed, text=(2, 3))]


def _gained(sweep: Sweep) -> list[str]:
    """Questions that the best point answers and the smallest does not, with their images."""
    complete = [row for row in sweep.rows if row.accuracy is not None]
    if len(complete) < 2:
        return []
    low, high = complete[0].max_crops, max(complete, key=lambda row: row.accuracy or 0.0).max_crops
    both = [answer for answer in sweep.answers if low in answer["score"] and high in answer["score"]]
    gained = [answer for answer in both if answer["score"][high] > answer["score"][low]]
    lost = sum(answer["score"][high] < answer["score"][low] for answer in both)
    if not gained:
        return []
    shown = [_example(sweep, answer, low, high) for answer in _spread(gained, _EXAMPLES)]
    return [
        "<h2>What more crops change</h2>",
        f"<p>Of {len(both)} questions {len(gained)} score higher at {high} than at {low}, and {lost} lower."
        f" {len(shown)} of those that gain:</p>",
        f'<div class="examples">{"".join(shown)}</div>',
    ]


def _spread(items: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most so many, from all over the list."""
    step = max(1, len(items) // most)
    return list(items[::step][:most])


def _example(sweep: Sweep, answer: Mapping[str, Any], low: int, high: int) -> str:
    image = open_image(sweep.images(answer["row"])).convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    image.save(file, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return (
        f'<div><img alt="" src="{source}"><p>{_text(answer["question"])}</p>'
        f'<p class="wrong">{low}: {_text(answer["given"][low])}</p>'
        f'<p class="right">{high}: {_text(answer["given"][high])}</p></div>'
    )


def _quarantined(sweep: Sweep) -> list[str]:
    if not sweep.quarantined:
        return []
    rows = [[row.row, row.reason] for row in sweep.quarantined]
    return ["<h2>Rows of the data that count at no point</h2>", _table(("row", "why"), rows, text=(1,))]


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return [f"<h2>{title}</h2>", "<ul>", *(f"<li>{_text(line)}</li>" for line in lines), "</ul>"]


def _conditions(sweep: Sweep) -> dict[str, str]:
    return {"prompt": sweep.prompt, "new tokens": str(sweep.new_tokens), **sweep.environment}


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, marks: Sequence[str] = (), text: Iterable[int] = ()
) -> str:
    left = set(text)
    kinds = [' class="text"' if at in left else "" for at in range(len(columns))]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, columns, strict=True))
    lines = []
    for at, row in enumerate(rows):
        mark = f' class="{marks[at]}"' if marks and marks[at] else ""
        cells = "".join(f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        lines.append(f"<tr{mark}>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _text(value: object) -> str:
    return html.escape(str(value))


def _question_ms(row: SweepRow) -> float | None:
    if row.generate_seconds is None or row.preprocess_seconds is None:
        return None
    return 1e3 * (row.generate_seconds + row.preprocess_seconds)


def _percent(value: float | None, *, signed: bool = False) -> str:
    return "" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


def _limits(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{_percent(low, signed=signed)} to {_percent(high, signed=signed)}"


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
