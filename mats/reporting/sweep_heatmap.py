"""What sweeps do to layers: movement, predicted loss and certainty of every layer at every point, as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mats.reporting.numbers import common_prefix_removed
from mats.reporting.plots import INK, style
from mats.reporting.report import LayerEntry
from mats.reporting.summary import solved_layers
from mats.reporting.sweep_results import PointResult, SweepResults
from mats.reporting.sweep_table import point_label

Quantity = Literal["movement", "predicted_loss", "remaining_share"]
MOST_COLUMNS, MOST_ROW_LABELS = 48, 60
SMALLEST_SHARE = 1e-9  # what is left beyond that is rounding
TITLES: Mapping[Quantity, str] = {
    "movement": "Movement ‖Δ‖ ÷ largest distance of a model from the start",
    "predicted_loss": "Predicted loss of the merge ÷ that of the start, all models (log10)",
    "remaining_share": "Share of the attainable decrease that is left at most (log10)",
}


def plot_layer_map(results: SweepResults, quantity: Quantity, *, ink: str = INK) -> Figure | None:
    """A map of layers (rows, in checkpoint order) by points (columns); None where fewer than two points solved layers.

    Of more than `MOST_COLUMNS` points, as many are shown as fit, evenly spaced, the selected ones among them.
    """
    points = _shown_points(results)
    tables = [_by_layer(point, quantity) for point in points]
    names = list(dict.fromkeys(name for table in tables for name in table))
    if len(points) < 2 or not names:
        return None
    grid = [[table.get(name, math.nan) for table in tables] for name in names]
    labels = [point_label(point, results) for point in points]
    with style(ink):
        margin = 0.5 + 0.06 * max(map(len, labels))
        figure = Figure(figsize=(9.5, 0.9 + margin + min(12.0, 0.17 * len(names))), layout="constrained")
        ax: Axes = figure.subplots()
        ax.grid(visible=False)
        _draw(figure, ax, grid, quantity)
        step = -(-len(names) // MOST_ROW_LABELS)
        shown = common_prefix_removed([name.removesuffix(".weight") for name in names])
        ax.set_yticks(range(0, len(names), step), shown[::step], fontsize=7, parse_math=False)
        ax.set_xticks(range(len(points)), labels, rotation=90, fontsize=7, parse_math=False)
        ax.set_title(TITLES[quantity])
    return figure


def _shown_points(results: SweepResults) -> list[PointResult]:
    solved = [point for point in results.done if point.report is not None and solved_layers(point.report)]
    if len(solved) <= MOST_COLUMNS:
        return solved
    step = len(solved) / MOST_COLUMNS
    spaced = {solved[int(place * step)].number for place in range(MOST_COLUMNS)} | set(results.selected)
    return [point for point in solved if point.number in spaced]


def _by_layer(point: PointResult, quantity: Quantity) -> dict[str, float]:
    assert point.report is not None
    values = ((layer["name"], _value(layer, quantity)) for layer in solved_layers(point.report))
    return {name: value for name, value in values if value is not None}


def _value(layer: LayerEntry, quantity: Quantity) -> float | None:
    if quantity == "movement":
        return layer.get("movement")
    if quantity == "remaining_share":
        left = layer.get("remaining_share")
        return None if left is None else math.log10(max(left, SMALLEST_SHARE))
    before, after = (sum((losses or {}).values()) for losses in (layer.get("loss_before"), layer.get("loss_after")))
    return math.log10(after / before) if before > 0 and after > 0 else None


def _draw(figure: Figure, ax: Axes, grid: Sequence[Sequence[float]], quantity: Quantity) -> None:
    """Dark is much; predicted losses diverge from "as at the start"."""
    options: dict[str, Any] = {"cmap": "viridis_r", "vmin": 0.0}
    if quantity == "remaining_share":
        options = {"cmap": "viridis_r"}
    if quantity == "predicted_loss":
        known = [abs(value) for row in grid for value in row if math.isfinite(value)]
        reach = max(known, default=1.0) or 1.0
        options = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    image = ax.imshow(grid, aspect="auto", interpolation="nearest", **options)
    figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01)
