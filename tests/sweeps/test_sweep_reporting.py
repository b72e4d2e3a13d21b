"""What results look like: rows, files, plots and the page, from results written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas
import pytest

from mats.reporting.sweep_heatmap import plot_layer_map
from mats.reporting.sweep_page import render_sweep_page
from mats.reporting.sweep_plots import plot_axis, plotted_axes
from mats.reporting.sweep_results import DatasetScore, PointResult, SplitScores, SweepResults
from mats.reporting.sweep_table import score_rows
from mats.reporting.sweep_writer import write_sweep_report
from mats.sweeps.selection import select_points
from mats.sweeps.spec import SelectSection


def split(value: float | None, interval: tuple[float, float] | None = (0.1, 0.9)) -> SplitScores:
    if value is None:
        return SplitScores({})
    score = DatasetScore("f1", value, {"f1": value, "accuracy": 0.5}, interval, value / 2, 10)
    return SplitScores({"paws": score}, mean=value, mean_relative=value / 2)


def layer(name: str, movement: float, before: float, after: float) -> dict[str, Any]:
    losses = {"loss_before": {"a": before, "b": before}, "loss_after": {"a": after, "b": after}}
    return {"name": name, "rule": "kfac", "shape": [2, 2], "movement": movement, **losses}


def report(factor: float) -> Any:
    layers = [
        layer("encoder.0.q.weight", 0.5 * factor, 1.0, 0.1),
        layer("encoder.1.q.weight", factor, 1.0, 10 * factor),
    ]
    return {"models": [{"name": "a", "metadata": "m"}], "layers": layers}


def point(number: int, columns: dict[str, Any], value: float | None, **fields: Any) -> PointResult:
    return PointResult(number, f"d{number}", columns, scores={"validation": split(value)}, **fields)


def results(*points: PointResult, axes: tuple[str, ...] = ("scale", "method"), **fields: Any) -> SweepResults:
    return SweepResults("Sweep", axes, points, "validation", "mean", **fields)


GRID = results(
    *(
        point(3 * row + column + 1, {"scale": scale, "method": method}, 0.1 * (row + column), report=report(1 + column))
        for row, method in enumerate(("ties", "average <b>"))
        for column, scale in enumerate((0.001, 0.1, 1))
    ),
    PointResult(7, "d7", {"scale": 5}, "failed", "it <broke>"),
    report_split="test",
    selected=(6,),
    notes=("a note & more",),
)


def test_a_row_for_every_point_dataset_split_and_metric() -> None:
    rows = score_rows(GRID)
    assert len(rows) == 6 * 2
    first, second = rows[10:]
    assert first | {"value": 0.3} == {
        "point": 6,
        "digest": "d6",
        "scale": 1,
        "method": "average <b>",
        "split": "validation",
        "dataset": "paws",
        "metric": "f1",
        "value": 0.3,
        "interval_low": 0.1,
        "interval_high": 0.9,
        "relative": pytest.approx(0.15),
        "examples": 10,
        "merge_seconds": None,
        "made_by": None,
        "peak_memory_bytes": None,
        "selected": True,
    }
    assert (second["metric"], second["interval_low"], second["relative"]) == ("accuracy", None, None)


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    mixed = results(
        point(1, {"scale": 1, "method": {"a": [1]}}, 0.5),
        point(2, {"scale": None, "method": "x"}, 0.25),
        axes=("scale", "method"),
    )
    files = write_sweep_report(mixed, tmp_path / "new" / "folder")
    assert {"scores.csv", "scores.parquet", "points.csv", "points.parquet", "report.html"} <= set(files)
    folder = tmp_path / "new" / "folder"
    for name in ("scores", "points"):
        text = pandas.read_csv(folder / f"{name}.csv")
        binary = pandas.read_parquet(folder / f"{name}.parquet")
        assert list(text.columns) == list(binary.columns)
        for column in text:
            pairs = zip(text[column], binary[column], strict=True)
            assert all((pandas.isna(a) and pandas.isna(b)) or a == b for a, b in pairs), column
    assert list(pandas.read_parquet(folder / "points.parquet")["method"]) == ['{"a": [1]}', "x"]


def test_the_same_results_give_the_same_bytes_and_stale_plots_go(tmp_path: Path) -> None:
    first = write_sweep_report(GRID, tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in first}
    (tmp_path / "plots" / "old.png").write_bytes(b"")
    assert write_sweep_report(GRID, tmp_path) == first
    assert {name: (tmp_path / name).read_bytes() for name in first} == kept
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "layers-movement.png",
        "layers-predicted_loss.png",
        "method.png",
        "scale.png",
    ]


def test_lines_are_told_apart_by_the_other_axes() -> None:
    assert plotted_axes(GRID) == ["scale", "method"]
    (ax,) = plot_axis(GRID, "scale").axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert curves["method ties"] == [[0.001, 0.0], [0.1, 0.1], [1.0, 0.2]]
    assert curves["selected"] == [[1.0, pytest.approx(0.3)]]
    assert ax.get_xscale() == "log"
    (rows,) = plot_axis(GRID, "method").axes
    assert [label.get_text() for label in rows.get_yticklabels()] == ["ties", "average <b>"]
    assert len(rows.lines) == 3


def test_too_many_lines_become_means_with_a_range() -> None:
    points = [
        point(number + 1, {"x": number % 2, "few": number % 3, "many": number}, float(number)) for number in range(24)
    ]
    figure = plot_axis(results(*points, axes=("x", "few", "many")), "x")
    (ax,) = figure.axes
    assert {line.get_label() for line in ax.lines} == {"few 0", "few 1", "few 2"}
    data = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    expected = [number for number in range(24) if number % 2 == 0 and number % 3 == 1]
    assert data["few 1"][0] == [0, pytest.approx(sum(expected) / len(expected))]
    assert "mean and range over many" in ax.get_title(loc="left")


def test_axes_that_advance_together_are_one_line() -> None:
    points = [point(number, {"x": number, "y": 10 * number}, 0.1 * number) for number in (1, 2, 3)]
    (ax,) = plot_axis(results(*points, axes=("x", "y")), "x").axes
    assert len(ax.lines) == 1


def test_sets_of_models_show_as_their_number() -> None:
    sets = {"a": 1, "b": 1, "a+b": 2}
    points = [
        point(number, {"models": names, "models.count": count}, 0.1 * number)
        for number, (names, count) in enumerate(sets.items(), start=1)
    ]
    grid = results(*points, axes=("models", "models.count"))
    assert plotted_axes(grid) == ["models.count"]
    (ax,) = plot_axis(grid, "models.count").axes
    assert ax.lines[0].get_xydata().tolist() == [[1, pytest.approx(0.15)], [2, pytest.approx(0.3)]]


def test_layer_maps_hold_the_reports_numbers() -> None:
    movement = plot_layer_map(GRID, "movement")
    loss = plot_layer_map(GRID, "predicted_loss")
    assert movement is not None
    assert loss is not None
    assert movement.axes[0].images[0].get_array().tolist() == [[0.5, 1, 1.5] * 2, [1, 2, 3] * 2]
    changes = loss.axes[0].images[0].get_array()
    assert changes[0].tolist() == pytest.approx([-1.0] * 6)
    assert changes[1].tolist() == pytest.approx([math.log10(10 * factor) for factor in (1, 2, 3)] * 2)
    assert plot_layer_map(results(point(1, {}, 0.5)), "movement") is None


def test_the_page_tells_everything_and_escapes_it() -> None:
    page = render_sweep_page(GRID, {})
    for expected in ("a note &amp; more", "it &lt;broke&gt;", "average &lt;b&gt;", "6 ★", "Failed points", "6 of 7"):
        assert expected in page
    assert "<broke>" not in page
    assert "<b>average" not in page
    assert "No point is done" in render_sweep_page(results(PointResult(1, "d", {}, "missing")), {})


@pytest.mark.parametrize(
    ("options", "chosen"),
    [({}, [2]), ({"order": "lowest"}, [1]), ({"per": "method"}, [2, 4]), ({"per": ["method", "scale"]}, [1, 2, 3, 4])],
)
def test_selection(options: dict[str, Any], chosen: list[int]) -> None:
    values = {1: 0.2, 2: 0.9, 3: 0.3, 4: 0.9, 5: None, 6: math.nan}
    points = [
        PointResult(number, f"d{number}", {"method": "a" if number < 3 else "b", "scale": number}) for number in values
    ]
    scored = [(entry, values[entry.number]) for entry in reversed(points)]
    found = select_points(scored, SelectSection.model_validate(options))
    assert [entry.number for entry in found] == chosen
