"""The picture of a merge: residual, movement, and each model's quadratic before and after, layer by layer."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mats.reporting.numbers import common_prefix_removed
from mats.reporting.report import LayerEntry, Report
from mats.reporting.summary import solved_layers

# Okabe and Ito's colours, told apart by colour-blind readers and on light and dark pages alike
BETTER, WORSE, START, ACCENT = "#0072B2", "#D55E00", "#8c959f", "#009E73"
INK = "#1f2328"
INK_IN_SVG = "#010203"  # replaced by currentColor, so that a page's text colour holds in the picture too
MOST_LABELS = 40
WIDTH, GAP = 9.5, 0.34  # inches: the picture's width, and the room above each part for its title


@contextmanager
def style(ink: str) -> Iterator[None]:
    """Draw in the project's style and this text colour, whatever the user's matplotlib is set to."""
    settings = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#8c959f",
        "grid.alpha": 0.25,
        "svg.fonttype": "none",
        "svg.hashsalt": "mats",  # the same picture has the same bytes
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "legend.frameon": False,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, **settings, "backend": mpl.rcParams["backend"]}):
        yield


def plot_layers(report: Report, *, ink: str = INK) -> Figure | None:
    """Residuals, movement and every model's quadratic by layer; None when no layer was solved."""
    layers = solved_layers(report)
    if not layers:
        return None
    models = [entry["name"] for entry in report["models"]]
    with style(ink):
        heights = [1.4, 1.4, *[1.15] * len(models)]
        labels = common_prefix_removed([layer["name"].removesuffix(".weight") for layer in layers])
        margin = 0.25 + 0.058 * max(map(len, _thinned(labels)))
        height = sum(heights) + GAP * len(heights) + margin
        figure = Figure(figsize=(WIDTH, height))
        # Not sharex: shared axes would lay out every layer's hidden label once per model, most of the time of a merge.
        axes: list[Axes] = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _draw_residuals(axes[0], layers)
        _draw_movement(axes[1], layers)
        for model, ax in zip(models, axes[2:], strict=True):
            _draw_losses(ax, model, layers)
        # Margins by arithmetic: an automatic layout draws everything twice more.
        figure.subplots_adjust(
            left=0.75 / WIDTH,
            right=1 - 0.15 / WIDTH,
            bottom=margin / height,
            top=1 - GAP / height,
            hspace=GAP * len(heights) / sum(heights),
        )
        for ax in axes:
            ax.minorticks_off()
            ax.set_xticks([])
            ax.set_xlim(-0.7, len(labels) - 0.3)
        _label_layers(axes[-1], labels)
    return figure


def _draw_residuals(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("True relative residual (○ tolerance missed)")
    for reached in (True, False):
        points = [
            (place, value)
            for place, layer in enumerate(layers)
            if (value := layer.get("relative_residual")) and (layer.get("converged") is not False) == reached
        ]
        if points:
            ax.plot(
                *zip(*points, strict=True),
                "o",
                ms=4,
                color=BETTER if reached else WORSE,
                mfc=None if reached else "none",
            )
            ax.set_yscale("log")


def _draw_movement(ax: Axes, layers: Sequence[LayerEntry]) -> None:
    ax.set_title("Movement ‖Δ‖ ÷ largest distance of a model from the start")
    points = [(place, value) for place, layer in enumerate(layers) if (value := layer.get("movement")) is not None]
    if points:
        ax.vlines([x for x, _ in points], 0, [y for _, y in points], color=ACCENT, lw=1.5)
        ax.plot(*zip(*points, strict=True), "o", ms=4, color=ACCENT)
    ax.axhline(1.0, color=START, lw=1, ls="--")
    ax.set_ylim(bottom=0)


def _draw_losses(ax: Axes, model: str, layers: Sequence[LayerEntry]) -> None:
    """One stroke per layer from the start's quadratic to the solution's: blue where it falls, orange where it rises."""
    values = [
        (place, before[model], after[model])
        for place, layer in enumerate(layers)
        if model in (before := layer.get("loss_before") or {}) and model in (after := layer.get("loss_after") or {})
    ]
    shown = [(x, before, after) for x, before, after in values if before > 0 and after > 0]
    for rises, color in ((False, BETTER), (True, WORSE)):
        chosen = [point for point in shown if (point[2] > point[1]) == rises]
        if chosen:
            places, starts, ends = zip(*chosen, strict=True)
            ax.vlines(places, starts, ends, color=color, lw=1.5)
            ax.plot(places, ends, "o", ms=4, color=color)
    if shown:
        ax.plot([x for x, _, _ in shown], [before for _, before, _ in shown], "_", ms=7, mew=1.5, color=START)
        ax.set_yscale("log")
    total_before, total_after = sum(before for _, before, _ in values), sum(after for _, _, after in values)
    ax.set_title(
        f"{model}: quadratic at the start (–) and merged (●); sum {total_before:.3g} → {total_after:.3g}",
        parse_math=False,
    )


def _label_layers(ax: Axes, labels: Sequence[str]) -> None:
    step = -(-len(labels) // MOST_LABELS)
    ax.set_xticks(range(0, len(labels), step), _thinned(labels), rotation=90, fontsize=7, parse_math=False)


def _thinned(labels: Sequence[str]) -> list[str]:
    return list(labels[:: -(-len(labels) // MOST_LABELS)])


def as_png(figure: Figure) -> bytes:
    """The figure as PNG on white; the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """The figure as SVG without background, in the text colour of whatever page holds it."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mats"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue().replace(INK_IN_SVG, "currentColor")
