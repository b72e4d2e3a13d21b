"""`report.html` of a sweep: the selected points with their recipes, plots and the table, with everything inside it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

import yaml

from mats.reporting.html_table import Cell, Column, html_table, number_cell, text_cell
from mats.reporting.numbers import NOTHING, percent, short, whole
from mats.reporting.sweep_results import DatasetScore, PointResult, SweepResults
from mats.reporting.sweep_table import word

MEGABYTE = 1e6


def render_sweep_page(results: SweepResults, pictures: Mapping[str, str]) -> str:
    """The page as HTML; `pictures` are SVGs by title."""
    template = Template(files("mats.reporting").joinpath("page.html").read_text(encoding="utf-8"))
    sections = [
        _header(results),
        _tiles(results),
        _selected(results),
        *(f"<h2>{escape(title)}</h2><figure>{svg[svg.index('<svg') :]}</figure>" for title, svg in pictures.items()),
        _points(results),
        _failures(results),
        _recipes(results),
    ]
    return template.substitute(title=escape(results.title), body="\n".join(filter(None, sections)))


def _header(results: SweepResults) -> str:
    axes = ", ".join(f"<code>{escape(axis)}</code>" for axis in results.axes) or "no axis"
    notes = "".join(f"<li>{escape(note)}</li>" for note in results.notes)
    return f"<h1>{escape(results.title)}</h1>\n<p>{len(results.points)} points over {axes}.</p>\n<ul>{notes}</ul>"


def _tiles(results: SweepResults) -> str:
    tiles = [(f"{len(results.done)} of {len(results.points)}", "points done")]
    name = results.metric.replace("_", " ")
    if len(results.chosen) == 1:
        (point,) = results.chosen
        tiles.append((percent(results.score(point)), f"{name} on {results.split}, where it was selected"))
        if results.report_split is not None and results.report_split in point.scores:
            told = results.score(point, results.report_split)
            tiles.append((percent(told), f"{name} on {results.report_split}, the same point"))
    if seconds := {p.made_by or p.name: p.seconds for p in results.done if p.seconds is not None}:
        tiles.append((f"{sum(seconds.values()):.0f} s", f"in {len(seconds)} merges"))
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{a}</b><span>{b}</span></div>" for a, b in tiles) + "</div>"
    )


def _selected(results: SweepResults) -> str:
    """The selected points: one row each, or for a single point one row per dataset."""
    if not results.chosen:
        return ""
    note = "<p class=soft>In brackets: 95 % interval over examples; after ×: share of the dataset's own model.</p>"
    if len(results.chosen) == 1:
        point = results.chosen[0]
        told = ", ".join(f"{axis} {word(point.columns[axis])}" for axis in results.axes if axis in point.columns)
        title = f"<h2>The selected point</h2><p>Point {point.number}: {escape(told)}</p>"
        return f"{title}{_one_selected(results, point)}{note}"
    return f"<h2>The selected points</h2>{_many_selected(results)}{note}"


def _one_selected(results: SweepResults, point: PointResult) -> str:
    """Datasets down, splits across."""
    splits = [split for split in results.splits() if split in point.scores]
    columns = [Column("dataset", text=True), Column("metric", text=True), *(Column(split) for split in splits)]
    datasets = dict.fromkeys(name for split in splits for name in _scores(point, split))
    rows = []
    for name in datasets:
        scores = [_scores(point, split).get(name) for split in splits]
        metric = next((score.metric for score in scores if score is not None), "")
        rows.append([text_cell(name), text_cell(metric.replace("_", " ")), *map(_dataset_cell, scores)])
    for title, place in (("mean relative", 0), ("mean", 1)):
        cells = [_share_cell(_means(point, split)[place]) for split in splits]
        rows.append([text_cell(f"all: {title}"), text_cell(""), *cells])
    return html_table(columns, rows)


def _many_selected(results: SweepResults) -> str:
    """Points down: axes, the score where each was selected, its scores on the reported split."""
    told = results.report_split if results.report_split is not None and _is_reported(results) else results.split
    datasets = _datasets(results, told)
    columns = [Column("point"), *(Column(axis, text=True) for axis in results.axes)]
    columns.append(Column(f"{results.split}: {results.metric.replace('_', ' ')}"))
    if told != results.split:
        columns.append(Column(f"{told}: {results.metric.replace('_', ' ')}"))
    columns += [Column(f"{told}: {dataset}") for dataset in datasets]
    rows = []
    for point in results.chosen:
        cells = [number_cell(point.number), *(_axis_cell(point, axis) for axis in results.axes)]
        cells.append(_share_cell(results.score(point)))
        if told != results.split:
            cells.append(_share_cell(results.score(point, told)))
        rows.append([*cells, *(_dataset_cell(_scores(point, told).get(dataset)) for dataset in datasets)])
    return html_table(columns, rows)


def _is_reported(results: SweepResults) -> bool:
    return results.report_split is not None and any(results.report_split in point.scores for point in results.chosen)


def _datasets(results: SweepResults, split: str | None) -> list[str]:
    found = {name: None for point in results.done for name in _scores(point, split)}
    return list(found)


def _scores(point: PointResult, split: str | None) -> Mapping[str, DatasetScore]:
    scores = None if split is None else point.scores.get(split)
    return {} if scores is None else scores.datasets


def _axis_cell(point: PointResult, axis: str) -> Cell:
    value = point.columns.get(axis)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(short(value) if isinstance(value, float) else str(value), value=repr(value), text=True)
    return text_cell(word(value) or NOTHING)


def _share_cell(value: float | None) -> Cell:
    return Cell(percent(value), value="" if value is None else repr(value))


def _dataset_cell(score: DatasetScore | None) -> Cell:
    if score is None:
        return _share_cell(None)
    interval = "" if score.interval is None else f" [{100 * score.interval[0]:.1f}, {100 * score.interval[1]:.1f}]"
    relative = "" if score.relative is None else f" × {score.relative:.3f}"
    return Cell(percent(score.value) + interval + relative, value=repr(score.value))


def _points(results: SweepResults) -> str:
    """Every point that is done: axes, means on every split, the datasets of the split of selection, cost."""
    datasets = _datasets(results, results.split)
    numeric = {axis for axis in results.axes if all(_is_numeric(point.columns.get(axis)) for point in results.done)}
    columns = [Column("point"), *(Column(axis, text=axis not in numeric) for axis in results.axes)]
    columns += [Column(f"{split}: {name}") for split in results.splits() for name in ("relative", "mean")]
    columns += [Column(f"{results.split}: {dataset}") for dataset in datasets]
    columns += [Column("merge, s"), Column("peak, MB")]
    rows = []
    for point in results.done:
        name = f"{point.number}{' ★' if point.number in results.selected else ''}"
        cells = [Cell(name, value=str(point.number)), *(_axis_cell(point, axis) for axis in results.axes)]
        for split in results.splits():
            cells += [_share_cell(value) for value in _means(point, split)]
        own = _scores(point, results.split)
        cells += [_share_cell(own[dataset].value if dataset in own else None) for dataset in datasets]
        memory = point.peak_memory_bytes
        cells += [number_cell(point.seconds), Cell(NOTHING if memory is None else whole(round(memory / MEGABYTE)))]
        rows.append(cells)
    if not rows:
        return "<p>No point is done.</p>"
    box = '<input type=search data-table=points placeholder="filter: ties 0.3" aria-label="filter points">'
    star = "<p class=soft>★ selected. Seconds and memory are those of the merge alone.</p>" if results.chosen else ""
    return f"<h2>All points</h2>{box}{html_table(columns, rows, name='points', tall=True)}{star}"


def _is_numeric(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _means(point: PointResult, split: str) -> tuple[float | None, float | None]:
    scores = point.scores.get(split)
    return (None, None) if scores is None else (scores.mean_relative, scores.mean)


def _failures(results: SweepResults) -> str:
    failed = [point for point in results.points if point.state == "failed"]
    if not failed:
        return ""
    columns = [Column("point"), *(Column(axis, text=True) for axis in results.axes), Column("error", text=True)]
    rows = [
        [
            number_cell(point.number),
            *(_axis_cell(point, axis) for axis in results.axes),
            text_cell(point.error or "", "wrap"),
        ]
        for point in failed
    ]
    return "<h2>Failed points</h2>" + html_table(columns, rows)


def _recipes(results: SweepResults) -> str:
    parts = []
    for point in results.chosen:
        text = yaml.safe_dump(dict(point.recipe), sort_keys=False, allow_unicode=True)
        opened = " open" if len(results.chosen) == 1 else ""
        parts.append(
            f"<details{opened}><summary>Point {point.number} ({escape(point.name)})</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )
    return "<h2>Recipe of the selection</h2>" + "".join(parts) if parts else ""
