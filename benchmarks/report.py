"""README tables from committed results.

Run:  python benchmarks/report.py           rewrites the tables between the markers of README.md
      python benchmarks/report.py --check   exits with 1 if they are not up to date
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def table(name: str) -> str:
    """The Markdown table of results/NAME.csv, with the machine under it."""
    with (Path(__file__).parent / "results" / f"{name}.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
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
    row = rows[0]
    versions = ", ".join(f"{name} {row[name]}" for name in ("maxcrops", "numpy", "torch", "transformers") if row[name])
    lines += ["", f"{row['cpu']}; Python {row['python']}, {versions}; {row['date']}, {row['git_sha']}."]
    return "\n".join(lines)


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
    for name in (path.stem for path in sorted((Path(__file__).parent / "results").glob("*.csv"))):
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
