"""Scores of methods on tasks: means, normalisation, and that tables and plots tell the same."""

from __future__ import annotations

import pytest
from rich.console import Console

from mats.errors import DataError
from mats.reporting import Scores, as_png, plot_scores, scores_markdown, scores_table

VALUES = {
    "individual": {"a": [0.8, 1.0], "b": [0.5, 0.5]},
    "average": {"a": [0.4, 0.4], "b": [0.1, 0.3]},
    "mats": {"a": [0.8, 0.5], "b": [0.5, 0.4]},
}


def test_means_spread_and_normalised_scores_by_hand():
    scores = Scores(("a", "b"), VALUES, "individual")
    assert scores.task_mean("average", "b") == pytest.approx(0.2)
    assert scores.by_seed("average") == pytest.approx([0.25, 0.35])
    assert scores.mean("average") == pytest.approx(0.3)
    assert scores.spread("average") == pytest.approx(0.1 / 2**0.5)
    assert scores.normalised("individual") == pytest.approx(1.0)
    assert scores.normalised("mats") == pytest.approx((1.0 + 0.5 + 1.0 + 0.8) / 4)
    assert scores.best() == "mats"


def test_one_seed_has_no_spread_and_a_zero_reference_no_norm():
    scores = Scores(("a",), {"individual": {"a": [0.0]}, "mats": {"a": [0.3]}}, "individual")
    assert scores.spread("mats") is None
    assert scores.normalised("mats") is None
    assert "±" not in scores_markdown(scores)
    assert Scores(("a",), {"mats": {"a": [0.3]}}).normalised("mats") is None


def test_tables_show_every_method_and_mark_the_best():
    scores = Scores(("a", "b"), VALUES, "individual")
    console = Console(width=120)
    with console.capture() as capture:
        console.print(scores_table(scores, title="Accuracy"))
    text = capture.get()
    assert all(method in text for method in VALUES)
    assert "30.0 % ± 7.1" in text
    lines = scores_markdown(scores).splitlines()
    assert len(lines) == 2 + 3
    assert lines[-1].startswith("| **mats** | **65.0 %** |")


def test_the_plot_has_a_row_per_method_and_the_reference_as_a_line():
    scores = Scores(("a", "b"), VALUES, "individual")
    figure = plot_scores(scores)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["average", "mats"]
    assert as_png(figure) == as_png(plot_scores(scores))
    assert len(plot_scores(Scores(("a",), {"mats": {"a": [0.3]}})).axes) == 1


@pytest.mark.parametrize(
    ("tasks", "values", "reference", "message"),
    [
        ((), VALUES, None, "no method or no task"),
        (("a",), {}, None, "no method or no task"),
        (("a",), VALUES, "best", r"reference 'best' is not among the methods \['individual'"),
        (("a", "c"), VALUES, None, "method 'individual', task 'c': 0 scores, expected 2"),
        (("a",), {"x": {"a": [1.0]}, "y": {"a": [1.0, 0.5]}}, None, "method 'y', task 'a': 2 scores, expected 1"),
        (("a",), {"x": {"a": []}}, None, "method 'x', task 'a': 0 scores, expected at least 1"),
    ],
)
def test_incomplete_scores_are_refused(tasks, values, reference, message):
    with pytest.raises(DataError, match=message):
        Scores(tasks, values, reference)
