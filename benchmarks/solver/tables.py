"""Measurements as tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from real_summary import ratio
from rich.table import Table

Line = dict[str, Any]


def real_table(lines: Sequence[Line], damping: str, tolerance: float, clock: str) -> Table:
    """The real problem at one damping; the other contenders below their shape."""
    what = "μ = 0" if float(damping) == 0 else f"damping {damping}"
    table = _table(
        f"{what}, true residual {tolerance:g}, seconds of the {clock}",
        *("layers", "contender", "on", "time", "for all", "× published", "iterations", "worst residual", "unfinished"),
    )
    for line in lines:
        ours = [ratio(line, part) for part in ("finished", "left")]
        table.add_row(
            f"{line['systems']} × {line['shape']}" if line["shape"][0].isdigit() else line["shape"],
            "published",
            f"{line['sampled']}",
            _finished_and_left(line, "published"),
            f"{line['published_time_for_all']:.1f}",
            "",
            spread_of(line["published_iterations"]),
            f"{line['published_residual']:.1e}",
            str(line["left"]),
        )
        table.add_row(
            "",
            "ours, auto",
            f"{line['sampled']}",
            _finished_and_left(line, "ours"),
            f"{line['ours_time_for_all']:.1f}",
            " + ".join("–" if value is None else f"{value:.1f}" for value in ours),
            spread_of(line["ours_iterations"]),
            f"{line['ours_residual']:.1e}",
            str(line["ours_unsolved"]),
            end_section=not line["others"],
        )
        for contender, other in line["others"].items():
            published = other["published_time"]
            table.add_row(
                "",
                contender,
                str(other["systems"]),
                f"{other['time']:.2f}",
                "",
                "" if published is None else f"{published / other['time']:.2f}",
                spread_of(other["iterations"]),
                f"{other['residual']:.1e}",
                str(other["systems"] - other["finished"]),
                end_section=contender == list(line["others"])[-1],
            )
    return table


def _finished_and_left(line: Line, who: str) -> str:
    """Time on the systems of the sample that the published way finished, and on those that it did not."""
    return f"{line[f'{who}_finished_time']:.2f} + {line[f'{who}_left_time']:.2f}"


def shapes_table(lines: Sequence[Line], clock: str) -> Table:
    """Random systems by shape."""
    share = "share" if clock == "wall" else "processor_share"
    which = "seconds" if clock == "wall" else "processor_seconds"
    table = _table(
        f"random systems, seconds of the {clock}",
        *("case", "layers × models", "shape", "1e-3", "1e-5", "iterations", "residual", "GEMM share", "memory"),
    )
    for line in lines:
        runs = line["runs"]
        table.add_row(
            line["key"]["case"],
            f"{line['key']['layers']} × {line['key']['models']}",
            "{}×{}".format(*line["key"]["shape"]),
            *(f"{runs[tolerance][which]:.2f}" for tolerance in ("0.001", "1e-05")),
            " / ".join(str(max(runs[tolerance]["iterations"])) for tolerance in ("0.001", "1e-05")),
            f"{max(runs['1e-05']['residuals']):.1e}",
            "–" if line[share] is None else f"{100 * line[share]:.0f} %",
            f"{line['solve_bytes'] / 1e9:.2f} GB on {line['factor_bytes'] / 1e9:.2f}",
        )
    return table


def hard_table(lines: Sequence[Line]) -> Table:
    """Hard cases, one line per case, strength, solver and precision."""
    table = _table(
        "hard cases, float64 dense judge",
        *(
            "case",
            "strength",
            "solver",
            "precision",
            "stop reasons",
            "iterations",
            "true residual",
            "from dense",
            "unseen",
        ),
    )
    for before, line in zip([{}, *lines], lines, strict=False):
        distance = line["distance"]
        table.add_row(
            "" if before.get("case") == line["case"] else line["case"],
            line["strength"],
            line["solver"],
            line["precision"],
            ", ".join(sorted(set(line["reasons"]))),
            spread_of(line["iterations"]),
            f"{max(line['residuals']):.1e}",
            "" if distance is None else f"{distance:.1e}",
            f"{line['unseen_share']:.0e}",
        )
    return table


def spread_of(numbers: Sequence[int]) -> str:
    """Lowest–highest, and the median where there are many."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    return f"{low}–{high}" if len(numbers) < 3 else f"{low}–{high} (median {statistics.median(numbers):.0f})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    words = ("layers", "contender", "case", "strength", "solver", "precision", "stop reasons")
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table
