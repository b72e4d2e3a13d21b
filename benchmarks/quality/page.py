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
    tasks, weak = list(results["examples"]), results["no_better_than_majority"]
    columns = [f"{task} †" if task in weak else task for task in tasks]
    title = ["merge", "needs", *columns, "share", "± seeds", "95 %", "mats − this", "s", "GB"]
    own, majority = _scores(results["individual"], tasks), _scores(results["majority"], tasks)
    lines = [
        _line(title),
        "|---|---|" + "---:|" * (len(title) - 2),
        _line(["each task's own model", "–", *own, "1", *["–"] * 5]),
        _line(["majority class", "–", *majority, *["–"] * 6]),
        *(_line(_cells(entry, tasks)) for entry in results["rows"]),
        "",
    ]
    if weak:
        lines += [_weak(results["margin"], left_out=len(weak) < len(tasks)), ""]
    examples = ", ".join(f"{task} {count}" for task, count in results["examples"].items())
    about = f"Seeds {', '.join(map(str, results['seeds']))}; test examples: {examples}; {results['machine']}."
    recipes = "; ".join(_recipe(entry) for entry in results["rows"] if "recipes" in entry)
    lines += [_metrics(results["metrics"]) + about, "", f"Recipes (seed 0): {recipes}."]
    return "\n".join(lines) + "\n"


def _cells(entry: dict[str, Any], tasks: list[str]) -> list[str]:
    low, high = entry["interval"]
    gap = entry.get("mats_minus_this")
    return [
        f"**{entry['row']}**" if entry["row"] == "mats" else entry["row"],
        entry["needs"],
        *_scores(entry["scores"], tasks),
        f"{entry['share']:.3f}",
        "–" if entry["deviation"] is None else f"{entry['deviation']:.3f}",
        f"{low:.3f} … {high:.3f}",
        "–" if gap is None else f"{gap['value']:+.3f} ({gap['interval'][0]:+.3f} … {gap['interval'][1]:+.3f})",
        f"{entry['seconds']:.0f}" if "seconds" in entry else "–",
        f"{entry['peak_bytes'] / 1e9:.1f}" if "peak_bytes" in entry else "–",
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _scores(scores: dict[str, float], tasks: list[str]) -> list[str]:
    """`.893`, `-.012`, `1.000`."""
    return [f"{scores[task]:.3f}".replace("0.", ".", 1) for task in tasks]


def _weak(margin: float, *, left_out: bool) -> str:
    """What † says."""
    why = f"† the task's own models do not beat the majority class by {margin:g}: "
    return why + ("left out of the share." if left_out else "so it is with every task, and the shares mean little.")


def _metrics(metrics: dict[str, str]) -> str:
    """What is scored by another metric than accuracy."""
    words = {"matthews_correlation": "Matthews correlation", "f1": "F1 of class 1"}
    others = [f"{task} by {words[metric]}" for task, metric in metrics.items() if metric != "accuracy"]
    return f"Scores are accuracies, but for {', '.join(others)}. " if others else ""


def _recipe(entry: dict[str, Any]) -> str:
    overrides = next(iter(entry["recipes"].values()))
    return f"{entry['row']}: `{' '.join(overrides) or 'method: mats'}`"
