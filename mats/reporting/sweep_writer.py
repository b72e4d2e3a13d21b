"""Everything that explains a sweep: tables, plots, and the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from mats.files import write_bytes_atomically
from mats.reporting.plots import INK, INK_IN_SVG, as_png, as_svg
from mats.reporting.sweep_heatmap import Quantity, plot_layer_map
from mats.reporting.sweep_page import render_sweep_page
from mats.reporting.sweep_plots import plot_axis, plotted_axes
from mats.reporting.sweep_results import SweepResults
from mats.reporting.sweep_table import SCORE_COLUMNS, point_rows, score_rows, table_bytes

MAPS: tuple[tuple[Quantity, str], ...] = (
    ("movement", "Movement, layer by layer"),
    ("predicted_loss", "Predicted loss, layer by layer"),
    ("remaining_share", "What is left to gain at most, layer by layer"),
)


def write_sweep_report(results: SweepResults, folder: Path) -> list[str]:
    """Write scores.csv, scores.parquet, points.csv, points.parquet, plots/*.png and report.html.

    The same results give the same bytes; files of an earlier report are replaced.

    Args:
        results: what the sweep gave.
        folder: where the files go; it is made.

    Returns:
        The names of the files written.

    Raises:
        OutOfSpace, WorkFailed: from the disk.
    """
    contents: dict[str, bytes] = {}
    columns = ("point", "digest", *results.axes)
    contents["scores.csv"], contents["scores.parquet"] = table_bytes(score_rows(results), (*columns, *SCORE_COLUMNS))
    rows = point_rows(results)
    contents["points.csv"], contents["points.parquet"] = table_bytes(rows, tuple(rows[0]) if rows else columns)
    pictures: dict[str, str] = {}
    for name, title, draw in _plots(results):
        if (figure := draw(ink=INK)) is not None and (in_page := draw(ink=INK_IN_SVG)) is not None:
            contents[f"plots/{name}.png"] = as_png(figure)
            pictures[title] = as_svg(in_page)
    contents["report.html"] = render_sweep_page(results, pictures).encode()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "plots").glob("*.png"):
        if f"plots/{stale.name}" not in contents:
            stale.unlink()
    for name, content in contents.items():
        write_bytes_atomically(folder / name, content)
    return list(contents)


def _plots(results: SweepResults) -> list[tuple[str, str, Callable[..., Figure | None]]]:
    """(file, title, how it is drawn)."""
    plots: list[tuple[str, str, Callable[..., Figure | None]]] = [
        (re.sub(r"[^\w.-]", "_", axis), f"Score against {axis}", partial(plot_axis, results, axis))
        for axis in plotted_axes(results)
    ]
    return plots + [(f"layers-{name}", title, partial(plot_layer_map, results, name)) for name, title in MAPS]
