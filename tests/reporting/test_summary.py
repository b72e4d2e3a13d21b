"""What follows from a report, computed by hand, and the numbers as words."""

from __future__ import annotations

import pytest
from reports import merge_report, streamed_report
from rich.console import Console

from mats.reporting import layers_table, summary
from mats.reporting.layer_plot import plot_layers
from mats.reporting.numbers import change, common_prefix_removed, compact, dimensions, short
from mats.reporting.summary import (
    covered_share,
    fallback_reasons,
    loss_totals,
    rounding_total,
    stop_reasons,
    totals_by_meaning,
    unconverged,
    worst_residual,
)


def test_totals_add_over_layers():
    totals = {total.model: total for total in loss_totals(merge_report())}
    assert totals["paws"].before == pytest.approx(0.06)
    assert totals["paws"].after == pytest.approx(0.03)
    assert totals["quartz"].after == pytest.approx(0.018)


def test_losses_and_output_errors_are_never_added():
    report = merge_report()
    report["layers"][1]["rule"] = "input_gram"
    (loss, losses), (error, errors) = totals_by_meaning(report)
    assert "loss" in loss
    assert "output error" in error
    assert losses[0].before == pytest.approx(0.04)
    assert errors[0].before == pytest.approx(0.02)
    assert totals_by_meaning(streamed_report()) == []


def test_what_a_reader_must_know():
    report = merge_report()
    assert covered_share(report) == pytest.approx(0.88)
    assert [layer["name"] for layer in unconverged(report)] == ["encoder.block.0.k.weight"]
    assert worst_residual(report)["relative_residual"] == 2e-3
    assert fallback_reasons(report) == [("too wide for an output Gram", 1, "shared.weight")]
    assert dict(stop_reasons(report)) == {"converged": 1, "max_iterations": 1, "closed_form": 1}
    assert rounding_total(report) == pytest.approx(7.5e-9)
    assert rounding_total(streamed_report()) is None


def printed(renderable, width=120):
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_terminal_summary_tells_losses_and_what_failed():
    text = printed(summary(merge_report()))
    for wanted in ("kfac", "80.0 %", "−50.0 %", "+50.0 %", "1 missed their tolerance", "too wide for an output Gram"):
        assert wanted in text, wanted
    assert "missed" not in printed(summary(streamed_report()))


def test_markup_in_names_is_not_interpreted():
    report = merge_report()
    report["layers"][0]["name"] = "[red]layer[/red].weight"
    assert "[red]layer[/red].weight" in printed(layers_table(report))


def test_a_limited_table_shows_the_worst():
    text = printed(layers_table(merge_report(), limit=1))
    assert "block.0.k.weight" in text
    assert "block.0.q.weight" not in text


def test_the_picture_has_a_row_per_model_and_a_mark_per_layer():
    figure = plot_layers(merge_report())
    residuals, remaining, losses = figure.axes[:3]
    assert sum(len(marks.get_offsets()) for marks in residuals.collections if hasattr(marks, "get_sizes")) >= 3
    assert "1 without a bound" in remaining.get_title(loc="left")
    assert [label.get_text() for label in losses.get_yticklabels()] == ["paws", "quartz"]
    assert [text.get_text() for text in losses.texts] == ["−50.0 %", "+50.0 %"]
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["q", "k", "norm"]
    assert plot_layers(streamed_report()) is None


def test_numbers_as_words():
    assert [short(v) for v in (None, 0.0, 0.012345, 1234567.0)] == ["–", "0", "0.0123", "1.23e+06"]
    assert [compact(v) for v in (512, 23_800_000, 109_482_240, 7_000_000_000)] == ["512", "23.8 M", "109 M", "7 B"]
    assert change(0.2, 0.1) == "−50.0 %"
    assert change(0.0, 0.1) == change(None, 1.0) == "–"
    assert dimensions([]) == "scalar"
    assert dimensions([3, 4]) == "3 × 4"
    assert common_prefix_removed(["a.b.0.q.w", "a.b.1.q.w"]) == ["0", "1"]
    assert common_prefix_removed(["a", "a.b"]) == ["a", "a.b"]
    assert common_prefix_removed(["x.y"]) == ["x.y"]
