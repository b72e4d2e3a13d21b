"""Pictures of a sweep: the score against each axis, one line per combination of the other axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mats.reporting.plots import INK, WORSE, style
from mats.reporting.sweep_results import PointResult, SweepResults
from mats.reporting.sweep_table import word

MOST_LINES = 8
LOG_SPAN = 20.0  # an axis whose ends are this many times apart is drawn in powers of ten
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c959f", "#7a5c3e")
MARKERS = "osD^vP*X"
MODELS, COUNT, NONE = "models", "models.count", "–"
TITLE_WIDTH = 95  # characters of a title's line


@dataclass(frozen=True)
class Line:
    """Points that share the values of the other axes: x → the scores there."""

    label: str
    scores: Mapping[Any, Sequence[float]]


def plotted_axes(results: SweepResults) -> list[str]:
    """The axes that have a plot: two values or more among the points with a score; sets of models show as a number."""
    return [axis for axis in results.axes if axis != MODELS and len(_values(axis, _scored(results))) > 1]


def plot_axis(results: SweepResults, axis: str, *, ink: str = INK) -> Figure:
    """The score of every point against one axis: curves over numbers, rows of dots over words.

    Lines are told apart by the other axes. Where that would be more than `MOST_LINES`, they are told apart by the axis
    with the fewest values among those, and each is the mean over the rest, with a band from the least to the greatest.
    """
    points = _scored(results)
    lines, over = _lines(results, points, axis)
    numeric = all(_is_number(value) for value in _values(axis, points))
    with style(ink):
        height = 3.6 if numeric else 1.4 + 0.42 * len(_values(axis, points))
        figure = Figure(figsize=(7.5, height), layout="constrained")
        ax: Axes = figure.subplots()
        if numeric:
            _draw_curves(ax, lines)
            _ring_selected(ax, results, axis)
            ax.set_xlabel(axis, parse_math=False)
            ax.set_ylabel(_score_name(results), parse_math=False)
        else:
            _draw_rows(ax, lines, [word(value) for value in _values(axis, points)])
            ax.set_xlabel(_score_name(results), parse_math=False)
        title = f"{_score_name(results)} against {axis}"
        title += f"; mean and range over {', '.join(over)}" if over else ""
        ax.set_title("\n".join(wrap(title, TITLE_WIDTH)), parse_math=False)
        if any(line.label for line in lines):
            figure.legend(loc="outside lower center", ncols=min(3, len(lines)), fontsize=8)
    return figure


def _score_name(results: SweepResults) -> str:
    return f"{results.metric.replace('_', ' ')} score on {results.split}"


def _scored(results: SweepResults) -> list[PointResult]:
    return [point for point in results.done if results.score(point) is not None]


def _values(axis: str, points: Sequence[PointResult]) -> list[Any]:
    """The different values of an axis, in order: numbers by size, words as they come."""
    found = {word(point.columns[axis]): point.columns[axis] for point in points if point.columns.get(axis) is not None}
    values = list(found.values())
    return sorted(values) if all(_is_number(value) for value in values) else values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lines(results: SweepResults, points: Sequence[PointResult], axis: str) -> tuple[list[Line], list[str]]:
    """The lines of a plot, and the axes over which each is a mean."""
    placed = [point for point in points if point.columns.get(axis) is not None]
    others = [other for other in results.axes if _tells_apart(other, axis, placed)]
    by, over = others, []
    if len({_key(point, others) for point in placed}) > MOST_LINES:
        held = [other for other in others if all(point.columns.get(other) is not None for point in placed)]
        by = sorted(held, key=lambda other: len(_values(other, placed)))[:1]
        by = by if by and len(_values(by[0], placed)) <= MOST_LINES else []
        over = [other for other in others if other not in by]
    groups: dict[tuple[str, ...], dict[Any, list[float]]] = {}
    for point in placed:
        value, score = point.columns[axis], results.score(point)
        assert score is not None
        groups.setdefault(_key(point, by), {}).setdefault(value if _is_number(value) else word(value), []).append(score)
    over = [other for other in over if not (other == COUNT and MODELS in over)]
    if axis == COUNT and MODELS in results.axes:
        over = [*over, "sets of models"]
    return [Line(_label(by, key), scores) for key, scores in groups.items()], over


def _tells_apart(other: str, axis: str, points: Sequence[PointResult]) -> bool:
    """Whether `other` varies at some value of `axis`; axes that advance together do not."""
    if other == axis or {other, axis} == {MODELS, COUNT}:
        return False
    seen: dict[str, set[str]] = {}
    for point in points:
        seen.setdefault(_shown(point, axis), set()).add(_shown(point, other))
    return any(len(values) > 1 for values in seen.values())


def _shown(point: PointResult, axis: str) -> str:
    return word(point.columns.get(axis)) or NONE


def _key(point: PointResult, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(_shown(point, axis) for axis in axes)


def _label(axes: Sequence[str], key: Sequence[str]) -> str:
    """`scale 0.3, init average`: the last part of each axis's name; axes that the points do not have are left out."""
    told = [(axis, value) for axis, value in zip(axes, key, strict=True) if value != NONE]
    parts = [f"{axis.split('.')[-1]} {value}" for axis, value in told if axis != COUNT or MODELS not in axes]
    text = ", ".join(parts)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _draw_curves(ax: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        places = sorted(line.scores)
        means = [sum(line.scores[x]) / len(line.scores[x]) for x in places]
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        size = 8.0 - 0.6 * place  # smaller and thinner on top of larger, so that equal lines all show
        ax.plot(places, means, marker=marker, ms=size, lw=0.33 * size, color=color, label=line.label or None)
        if any(len(scores) > 1 for scores in line.scores.values()):
            least, most = [min(line.scores[x]) for x in places], [max(line.scores[x]) for x in places]
            ax.fill_between(places, least, most, color=color, alpha=0.15, lw=0)
    values = [x for line in lines for x in line.scores]
    if min(values) > 0 and max(values) / min(values) >= LOG_SPAN:
        ax.set_xscale("log")
    elif all(isinstance(x, int) for x in values):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(visible=True, axis="both")


def _ring_selected(ax: Axes, results: SweepResults, axis: str) -> None:
    chosen = [
        (point.columns[axis], results.score(point)) for point in results.chosen if point.columns.get(axis) is not None
    ]
    shown = [(x, y) for x, y in chosen if y is not None]
    if shown:
        ax.plot(*zip(*shown, strict=True), "o", ms=11, mfc="none", mec=WORSE, mew=1.5, label="selected", zorder=4)


def _draw_rows(ax: Axes, lines: Sequence[Line], rows: Sequence[str | None]) -> None:
    """One row per word, the first on top: a mark per line, a stroke over its range."""
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    for place, line in enumerate(lines):
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        offset = 0.5 * ((place + 0.5) / len(lines) - 0.5)
        heights = [rows.index(name) + offset for name in line.scores]
        means = [sum(scores) / len(scores) for scores in line.scores.values()]
        least = [min(scores) for scores in line.scores.values()]
        most = [max(scores) for scores in line.scores.values()]
        ax.hlines(heights, least, most, color=color, alpha=0.4, lw=2)
        ax.plot(means, heights, marker, ms=6, color=color, label=line.label or None)
    ax.set_yticks(range(len(rows)), [name or NONE for name in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
