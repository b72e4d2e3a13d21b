"""The picture of a merge, layer by layer: what was solved how well, and what it does to each model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mats.reporting.components import PARTS, block_of, part_of, place_of
from mats.reporting.numbers import change, common_prefix_removed
from mats.reporting.plots import BETTER, INK, START, WORSE, style
from mats.reporting.report import LayerEntry, Report
from mats.reporting.summary import solved_layers

# Okabe and Ito's colours, and markers for readers who cannot tell them apart
LOOKS = {
    "q": ("#0072B2", "o"),
    "k": ("#56B4E9", "s"),
    "v": ("#009E73", "^"),
    "o": ("#E69F00", "D"),
    "ffn in": ("#D55E00", "v"),
    "ffn out": ("#CC79A7", "P"),
    "other": ("#8c959f", "X"),
}
FALLS_OR_RISES = LinearSegmentedColormap.from_list("falls or rises", [BETTER, "#e8e8e8", WORSE])
MOST_LABELS = 40
WIDTH, GAP, LEFT, RIGHT = 9.5, 0.36, 0.95, 0.85  # inches: the picture, above each part, beside all
HEIGHTS = (1.25, 1.25, 1.1, 1.1, 0.9)  # residual, what is left, movement, shares, iterations
ROUNDING = 1e-9  # of the largest value: what lies below is not worth a decade of the picture
ROW = 0.24  # of the heat map, for each model


def plot_layers(report: Report, *, ink: str = INK) -> Figure | None:
    """The certificates of a merge in the order of the model; None when no layer was solved."""
    layers = solved_layers(report)
    return plot_certificates(layers, [entry["name"] for entry in report["models"]], ink=ink) if layers else None


def plot_certificates(layers: Sequence[LayerEntry], models: Sequence[str], *, ink: str = INK) -> Figure:
    """Certificates of solved layers, one above the other: residual against tolerance, the bound on what is left to
    gain, every model's change of loss, movement, shares and iterations.

    Args:
        layers: entries of a report that carry certificates.
        models: the models' names, for the rows of the heat map.
        ink: colour of the text.
    """
    layers = sorted(layers, key=lambda layer: place_of(layer["name"]))
    with style(ink):
        labels, margin = _labels(layers)
        heights = [*HEIGHTS[:2], ROW * len(models) + 0.05, *HEIGHTS[2:]]
        top = GAP + 0.28
        height = sum(heights) + GAP * (len(heights) - 1) + margin + top
        figure = Figure(figsize=(WIDTH, height))
        # Places by arithmetic: an automatic layout draws everything twice more, most of the time of a small merge.
        axes: list[Axes] = []
        lower = height - top
        for part in heights:
            lower -= part
            box = (LEFT / WIDTH, lower / height, (WIDTH - LEFT - RIGHT) / WIDTH, part / height)
            axes.append(figure.add_axes(box))
            lower -= GAP
        _draw_residuals(axes[0], layers)
        _draw_remaining(axes[1], layers)
        _draw_losses(axes[2], layers, models)
        _draw_movement(axes[3], layers)
        _draw_shares(axes[4], layers)
        _draw_iterations(axes[5], layers)
        for ax in axes:
            ax.minorticks_off()
            ax.set_xticks([])
            ax.set_xlim(-0.5, len(layers) - 0.5)
        for ax in axes[:2] + axes[3:]:
            _shade_blocks(ax, layers)
        places, words, upright = labels
        axes[-1].set_xticks(places, words, rotation=0 if upright else 90, fontsize=7, parse_math=False)
        axes[-1].tick_params(axis="x", length=0)
        _legend(figure, layers, height)
    return figure


def _scatter(ax: Axes, layers: Sequence[LayerEntry], key: str, hollow: Sequence[bool]) -> bool:
    """A mark per layer, by part; hollow ones apart. Whether there was anything to mark."""
    values = [layer.get(key) for layer in layers]
    size = 22 if len(layers) <= 100 else 10
    for part in PARTS:
        color, marker = LOOKS[part]
        for empty in (False, True):
            points = [
                (place, float(value))  # type: ignore[arg-type]
                for place, (layer, value) in enumerate(zip(layers, values, strict=True))
                if value is not None and part_of(layer["name"]) == part and hollow[place] == empty
            ]
            if points:
                face = "none" if empty else color
                places, heights = zip(*points, strict=True)
                ax.scatter(places, heights, size, marker=marker, facecolors=face, edgecolors=color, lw=1, zorder=3)
    return any(value is not None for value in values)


def _logarithmic(ax: Axes, layers: Sequence[LayerEntry], keys: Sequence[str]) -> None:
    """A logarithmic axis with few ticks; zeros and mere rounding, as of closed forms, lie on its floor."""
    positive = [float(value) for layer in layers for key in keys if (value := layer.get(key))]  # type: ignore[arg-type]
    if not positive:
        return
    high = max(positive)
    low = min(value for value in positive if value >= ROUNDING * high)
    ax.set_yscale("symlog", linthresh=low / 3, linscale=0.4)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ax.set_yticks([10.0**power for power in range(first, last + 1, max(1, -(-(last - first) // 4)))])
    ax.set_ylim(-low / 12, high * 3)


def _draw_residuals(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("True relative residual (— the tolerance; hollow: missed)")
    _scatter(ax, layers, "relative_residual", [layer.get("converged") is False for layer in layers])
    asked = [(place, value) for place, layer in enumerate(layers) if (value := layer.get("tolerance"))]
    if asked:
        ax.hlines(
            [value for _, value in asked],
            [place - 0.5 for place, _ in asked],
            [place + 0.5 for place, _ in asked],
            color=START,
            lw=1.2,
        )
    _logarithmic(ax, layers, ("relative_residual", "tolerance"))


def _draw_remaining(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    unknown = sum(layer.get("remaining_share") is None for layer in layers)
    title = "At most this share of the attainable decrease is left (hollow: not proven for the whole space)"
    ax.set_title(title if not unknown else f"{title}; {unknown} without a bound")
    _scatter(ax, layers, "remaining_share", [layer.get("bound") != "proven" for layer in layers])
    _logarithmic(ax, layers, ("remaining_share",))


def _draw_losses(ax: Axes, layers: Sequence[LayerEntry], models: Sequence[str]) -> None:
    """A heat map: each model's quadratic at the solution against the start, and the sums beside it."""
    ax.set_title("Each model's quadratic, merged against start: blue falls, orange rises; sums at the right")
    grid = np.full((len(models), len(layers)), np.nan)
    for row, model in enumerate(models):
        for place, layer in enumerate(layers):
            before, after = (layer.get("loss_before") or {}).get(model), (layer.get("loss_after") or {}).get(model)
            if before is not None and after is not None and before > 0:
                grid[row, place] = (after - before) / before
    edges = np.arange(len(layers) + 1) - 0.5
    ax.pcolormesh(
        edges,
        np.arange(len(models) + 1) - 0.5,
        grid,
        cmap=FALLS_OR_RISES,
        norm=Normalize(-1, 1, clip=True),
        edgecolors="face",
        lw=0.3,
    )
    ax.set_ylim(len(models) - 0.5, -0.5)
    shown = [model if len(model) <= 14 else f"{model[:13]}…" for model in models]
    ax.set_yticks(range(len(models)), shown, fontsize=7.5, parse_math=False)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for row, model in enumerate(models):
        before, after = (
            sum((losses or {}).get(model, 0.0) for losses in column)
            for column in (
                [layer.get("loss_before") for layer in layers],
                [layer.get("loss_after") for layer in layers],
            )
        )
        ax.text(1.01, row, change(before, after), transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)


def _draw_movement(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("Movement ‖Δ‖ ÷ the farthest model's distance from the start")
    _scatter(ax, layers, "movement", [False] * len(layers))
    ax.axhline(1.0, color=START, lw=1, ls="--")
    ax.set_ylim(0, 1.1 * max([1.0, *(layer.get("movement") or 0.0 for layer in layers)]))


def _draw_shares(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("Held by damping and anchor (filled); share of ‖Δ‖² that no model sees (hollow)")
    _scatter(ax, layers, "pull_share", [False] * len(layers))
    _scatter(ax, layers, "null_share", [True] * len(layers))
    ax.set_ylim(-0.04, 1.04)


def _draw_iterations(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("Iterations (0: closed form)")
    for part in PARTS:
        bars = [
            (place, layer.get("iterations") or 0)
            for place, layer in enumerate(layers)
            if part_of(layer["name"]) == part
        ]
        if bars:
            ax.vlines([x for x, _ in bars], 0, [y for _, y in bars], color=LOOKS[part][0], lw=_bar(len(layers)))
    ax.set_ylim(0, 1.05 * max([1, *(layer.get("iterations") or 0 for layer in layers)]))
    ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _bar(layers: int) -> float:
    """Width of a bar in points."""
    return max(1.0, min(12.0, 0.6 * 72 * (WIDTH - LEFT - RIGHT) / layers))


def _blocks(layers: Sequence[LayerEntry]) -> list[tuple[str | None, int, int]]:
    """(block, first, last) of neighbours in one block."""
    runs: list[tuple[str | None, int, int]] = []
    for place, layer in enumerate(layers):
        block = block_of(layer["name"])
        if runs and runs[-1][0] == block:
            runs[-1] = (block, runs[-1][1], place)
        else:
            runs.append((block, place, place))
    return runs


def _shade_blocks(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    for number, (_, first, last) in enumerate(_blocks(layers)):
        if number % 2:
            ax.axvspan(first - 0.5, last + 0.5, color=START, alpha=0.13, lw=0, zorder=0)


def _labels(layers: Sequence[LayerEntry]) -> tuple[tuple[list[float], list[str], bool], float]:
    """Ticks below the picture (places, words, upright) and the room they take: layers, or blocks if they are many."""
    if len(layers) <= MOST_LABELS:
        names = common_prefix_removed([layer["name"].removesuffix(".weight") for layer in layers])
        names = [name if len(name) <= 40 else f"…{name[-39:]}" for name in names]
        return (list(map(float, range(len(layers)))), names, False), 0.25 + 0.058 * max(map(len, names))
    runs = [(block or _first_word(layers[first]["name"]), first, last) for block, first, last in _blocks(layers)]
    wide = len(layers) / 60  # a label needs about so many layers' room
    words, places, free = [], [], -1e9
    for block, first, last in runs:
        center = (first + last) / 2
        if center - free >= wide * (1 + 0.35 * len(block)):
            words.append(block)
            places.append(center)
            free = center
    return (places, words, True), 0.35


def _first_word(name: str) -> str:
    """What weights outside of blocks are called below the picture."""
    words = [word for word in name.split(".") if word not in ("weight", "model", "bert", "transformer")]
    return words[0][:10] if words else name[:10]


def _legend(figure: Figure, layers: Sequence[LayerEntry], height: float) -> None:
    """The parts that occur, on one line above everything."""
    present = [part for part in PARTS if any(part_of(layer["name"]) == part for layer in layers)]
    if present == ["other"]:
        return
    handles = [Line2D([], [], marker=LOOKS[part][1], color=LOOKS[part][0], ls="", ms=5, label=part) for part in present]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(LEFT / WIDTH, 1 - 0.02 / height),
        ncols=len(present),
        borderaxespad=0,
        handletextpad=0.2,
        columnspacing=1.4,
        borderpad=0,
    )
