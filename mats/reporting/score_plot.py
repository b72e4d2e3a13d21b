"""Scores of methods on tasks as a picture: the mean over tasks, the tasks themselves, the spread over seeds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mats.reporting.plots import ACCENT, BETTER, INK, START, WORSE, style
from mats.reporting.scores import Scores

MARKERS = "osDv^P*X"


def plot_scores(scores: Scores, *, ink: str = INK) -> Figure:
    """Methods from the best mean down; grey marks are tasks, the large dot their mean, its bar ± one deviation.

    The reference, if there is one, is a dashed line: what a model per task reaches.
    """
    order = sorted((m for m in scores.methods if m != scores.reference), key=scores.mean)
    with style(ink):
        figure = Figure(figsize=(7.5, 1.5 + 0.42 * len(order)), layout="constrained")
        ax: Axes = figure.subplots()
        ax.grid(visible=True, axis="x")
        ax.grid(visible=False, axis="y")
        for place, task in enumerate(scores.tasks):
            values = [100 * scores.task_mean(method, task) for method in order]
            marker = MARKERS[place % len(MARKERS)]
            ax.plot(values, range(len(order)), marker, ms=5, mfc="none", color=START, label=task, zorder=2)
        for row, method in enumerate(order):
            color = WORSE if method == scores.best() else BETTER
            spread = scores.spread(method)
            error = None if spread is None else 100 * spread
            mean = 100 * scores.mean(method)
            ax.errorbar(mean, row, xerr=error, fmt="o", ms=8, color=color, capsize=3, zorder=3)
            ax.annotate(f"{mean:.1f}", (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        if scores.reference is not None:
            mean = 100 * scores.mean(scores.reference)
            ax.axvline(mean, color=ACCENT, ls="--", lw=1.2, label=f"{scores.reference} {mean:.1f}")
        ax.set_yticks(range(len(order)), order, parse_math=False)
        ax.set_ylim(-0.6, len(order) - 0.3)
        ax.set_xlabel(f"{scores.metric}, per cent (large: mean over tasks)", parse_math=False)
        figure.legend(loc="outside upper center", ncols=min(5, len(scores.tasks) + 1), fontsize=8)
    return figure
