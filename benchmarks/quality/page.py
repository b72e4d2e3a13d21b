"""The page of the benchmark: docs/quality.md is written from the JSON, never by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- {name}: begin -->", "<!-- {name}: end -->"


def write_page(results: Path, page: Path | None) -> None:
    """Print the table of `results`; put it between its marks in `page` where there is one."""
    name = results.stem
    table = render(json.loads(results.read_text(encoding="utf-8")))
    print(table)
    if page is None or not page.is_file():
        return
    begin, end = BEGIN.format(name=name), END.format(name=name)
    text = page.read_text(encoding="utf-8")
    if begin not in text:
        return
    head, rest = text.split(begin, 1)
    page.write_text(f"{head}{begin}\n\n{table}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def render(results: dict[str, Any]) -> str:
    """A Markdown table: a row per merge, a column per task, the share and its interval, what it took."""
    tasks = list(results["examples"])
    title = ["merge", "needs", *tasks, "share", "± seeds", "95 %", "mats − this", "s", "GB"]
    lines = ["| " + " | ".join(title) + " |", "|---|---|" + "---:|" * (len(title) - 2)]
    own = [f"{results['individual'][task]:.3f}".lstrip("0") for task in tasks]
    lines.append("| " + " | ".join(["each task's own model", "–", *own, "1", *["–"] * 5]) + " |")
    for entry in results["rows"]:
        scores = [f"{entry['scores'][task]:.3f}".lstrip("0") for task in tasks]
        low, high = entry["interval"]
        gap = entry.get("mats_minus_this")
        cells = [
            f"**{entry['row']}**" if entry["row"] == "mats" else entry["row"],
            entry["needs"],
            *scores,
            f"{entry['share']:.3f}",
            "–" if entry["deviation"] is None else f"{entry['deviation']:.3f}",
            f"{low:.3f} … {high:.3f}",
            "–" if gap is None else f"{gap['value']:+.3f} ({gap['interval'][0]:+.3f} … {gap['interval'][1]:+.3f})",
            f"{entry['seconds']:.0f}" if "seconds" in entry else "–",
            f"{entry['peak_bytes'] / 1e9:.1f}" if "peak_bytes" in entry else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    examples = ", ".join(f"{task} {count}" for task, count in results["examples"].items())
    lines += [
        "",
        f"Seeds {', '.join(map(str, results['seeds']))}; test examples: {examples}; {results['machine']}.",
        "",
    ]
    lines += ["Recipes (seed 0): " + "; ".join(_recipe(entry) for entry in results["rows"] if "recipes" in entry) + "."]
    return "\n".join(lines) + "\n"


def _recipe(entry: dict[str, Any]) -> str:
    overrides = next(iter(entry["recipes"].values()))
    return f"{entry['row']}: `{' '.join(overrides) or 'method: mats'}`"
