"""Which parameters of which architectures does collection cover, and is what it sees autograd's gradient?

    python -m benchmarks.architectures             # the table of docs/architectures.md, and results/architectures.json
    python -m benchmarks.architectures BERT "GPT-2"   # these alone, printed; nothing is written

Each architecture is built by transformers in its smallest random configuration, in float64, and shown six random
examples of ragged lengths. Shares say more about kinds of parameters than about sizes: in a model this small norms and
position tables take a larger share than in one that is used.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.architectures.families import FAMILIES
from benchmarks.architectures.measuring import EXAMPLES, Row, measure
from mats.curvature.settings import STATISTICS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"
RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
START, END = "<!-- table: python -m benchmarks.architectures -->", "<!-- end of table -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", help="names of architectures; default: all, and write")
    chosen = parser.parse_args().families
    rows = [measure(family) for family in FAMILIES if not chosen or family.name in chosen]
    table = "\n".join(lines(rows))
    print(table)
    if not chosen:
        write(rows, table)


def lines(rows: list[Row]) -> list[str]:
    """The table in Markdown."""
    head = ["architecture", *(f"`{name}`" for name in STATISTICS), "none", "one by one", "worst error", "without Grams"]
    shown = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
    for row in rows:
        name = row.family + (f" ({row.remark})" if row.remark else "")
        shares = [percent(row.shares[key]) for key in (*STATISTICS, "none")]
        left = "; ".join(f"{what} {percent(share)}" for what, (share, _) in row.without_grams.items())
        cells = [name, *shares, percent(row.one_by_one), f"{row.worst_error:.0e}", left or "–"]
        shown.append("| " + " | ".join(cells) + " |")
    return shown


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def write(rows: list[Row], table: str) -> None:
    """The page's table and the results."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    found = {
        "examples": EXAMPLES,
        "dtype": "float64",
        "libraries": {name: version(name) for name in ("torch", "transformers")},
        "python": platform.python_version(),
        "rows": [row.as_json() for row in rows],
    }
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
