"""Scores of methods on tasks, as a table for the terminal and for Markdown."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from mats.reporting.card import markdown_table
from mats.reporting.numbers import NOTHING, percent
from mats.reporting.scores import Scores


def scores_table(scores: Scores, *, title: str | None = None) -> Table:
    """Method × task, in per cent, with the mean over tasks (± over seeds) and the mean normalised score."""
    header, rows = score_cells(scores)
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim"
    )
    for place, heading in enumerate(header):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    best = scores.best()
    for method, row in zip(scores.methods, rows, strict=True):
        style = "bold green" if method == best else "dim" if method == scores.reference else ""
        table.add_row(*(Text(cell, style=style) for cell in row))
    return table


def scores_markdown(scores: Scores) -> str:
    """The same as a GitHub table, the best method in bold."""
    header, rows = score_cells(scores)
    best = scores.best()
    marked = [
        [f"**{cell}**" for cell in row] if method == best else row
        for method, row in zip(scores.methods, rows, strict=True)
    ]
    return markdown_table(header, marked)


def score_cells(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of words."""
    header = ["method", *scores.tasks, "mean"]
    if scores.reference is not None:
        header.append(f"of {scores.reference}")
    rows = []
    for method in scores.methods:
        spread = scores.spread(method)
        mean = percent(scores.mean(method)) + ("" if spread is None else f" ± {100 * spread:.1f}")
        row = [method, *(percent(scores.task_mean(method, task)) for task in scores.tasks), mean]
        if scores.reference is not None:
            normalised = scores.normalised(method)
            row.append(NOTHING if normalised is None else percent(normalised))
        rows.append(row)
    return header, rows
