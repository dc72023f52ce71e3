"""README tables from committed results.

Run:  python benchmarks/report.py           rewrites the tables between the markers of README.md
      python benchmarks/report.py --check   exits with 1 if they are not up to date
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"

# Of the preprocessing cases, the README shows these in full: each model's own max_crops at the middle size.
IN_FULL = re.compile(
    r"molmo2, 1080x1920, max_crops 8(, (JPEG|Python).*)?|molmo, 1080x1920, max_crops 12(, (JPEG|Python).*)?"
)
# Of these, the peer and the fastest instruction set, in float32 and into memory that the caller keeps.
IN_SHORT = re.compile(
    r"molmo2, (\d+x\d+, max_crops 8|1080x1920, max_crops 24)|molmo, (\d+x\d+, max_crops 12|1080x1920, max_crops 24)"
)


def table(name: str) -> str:
    """The Markdown table of results/NAME.csv, with the machine under it."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return "\n".join([*TABLES[name](rows), "", _machine(rows[0])])


def _counting(rows: list[dict[str, str]]) -> list[str]:
    lines = ["| case | | a second | times the first | p20 to p80 |", "| --- | --- | ---: | ---: | ---: |"]
    case = None
    for row in rows:
        first = row["case"] != case
        case = row["case"]
        ratio = "1" if first else _three_digits(row["times_peer_median"])
        spread = "" if first else f"{_three_digits(row['times_peer_p20'])} to {_three_digits(row['times_peer_p80'])}"
        lines.append(
            f"| {case if first else ''} | {row['competitor']} | {_per_second(float(row['units_per_second']))}"
            f" {row['unit']} | {ratio} | {spread} |"
        )
    return lines


def _preprocess(rows: list[dict[str, str]]) -> list[str]:
    lines = [
        "| case | | ms an image | p20 to p80 | times the peer | times the floor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    case = None
    fastest = next((row["isa"] for row in reversed(rows) if row["isa"]), "")
    for row in rows:
        if not _is_shown(row, fastest):
            continue
        first = row["case"] != case
        case = row["case"]
        ratio = "" if row["peer"] == row["competitor"] else _three_digits(row["times_peer_median"])
        floor = _three_digits(row["times_floor_median"]) if row["times_floor_median"] else ""
        lines.append(
            f"| {case if first else ''} | {row['competitor']} | {_ms(row['seconds_median'])}"
            f" | {_ms(row['seconds_p20'])} to {_ms(row['seconds_p80'])} | {ratio} | {floor} |"
        )
    return lines


def _is_shown(row: dict[str, str], fastest: str) -> bool:
    """Whether the README has the row. Where maxcrops loses it has, whatever the case."""
    name = row["competitor"]
    if IN_FULL.fullmatch(row["case"]) or (name.startswith("maxcrops") and float(row["times_peer_median"]) < 1):
        return True
    plain = (
        row["dtype"] == "float32" and row["isa"] in ("", fastest) and "memory" not in name and "rounding" not in name
    )
    return IN_SHORT.fullmatch(row["case"]) is not None and plain


TABLES = {"counting": _counting, "preprocess": _preprocess}


def _machine(row: dict[str, str]) -> str:
    versions = ", ".join(f"{name} {row[name]}" for name in ("maxcrops", "numpy", "torch", "transformers") if row[name])
    load = f" load average before the run {row['load_average']};" if row.get("load_average") else ""
    return f"{row['cpu']};{load} Python {row['python']}, {versions}; {row['date']}, {row['git_sha']}."


def _ms(seconds: str) -> str:
    return _three_digits(str(float(seconds) * 1000))


def _per_second(value: float) -> str:
    for limit, suffix in ((1e6, " million"), (1e3, " thousand")):
        if value >= limit:
            return f"{value / limit:,.3g}{suffix}"
    return f"{value:,.3g}"


def _three_digits(number: str) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{float(number):.3g}'):,.10g}"


def with_tables(text: str) -> str:
    """The text with everything between <!-- NAME:begin --> and <!-- NAME:end --> made anew."""
    for name in (path.stem for path in sorted(RESULTS.glob("*.csv"))):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            tail = rest.partition(end)[2]
            text = f"{head}{begin}\n{table(name)}\n{end}{tail}"
    return text


def main() -> int:
    text = README.read_text(encoding="utf-8")
    fresh = with_tables(text)
    if "--check" in sys.argv:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
