"""What a merge into a LoRA adapter lost, for the page and the card: ranks, truncation errors, cross terms."""

from __future__ import annotations

from mats.reporting.html_table import Cell, Column, number_cell, text_cell
from mats.reporting.numbers import short, whole
from mats.reporting.report import LayerEntry, Report

NUMBERS = {
    "rank": "rank",
    "truncation_error": "truncation error",
    "truncation_error_in_metric": "in the metric",
    "difference_from_sum": "difference from the sum",
    "cosine_with_sum": "cosine with the sum",
}
"""Key of a layer's entry → its heading."""


def adapter_columns(report: Report) -> list[Column]:
    """Headings for `adapter_cells`; none where the output is no LoRA adapter."""
    columns = [Column(NUMBERS[key]) for key in _present(report)]
    return [*columns, Column("metric", text=True)] if "truncation_error" in _present(report) else columns


def adapter_cells(layer: LayerEntry, report: Report) -> list[Cell]:
    """One layer's row of them."""
    present = _present(report)
    cells = [number_cell(layer.get(key)) for key in present]  # type: ignore[arg-type]
    return [*cells, text_cell(layer.get("metric") or "")] if "truncation_error" in present else cells


def adapter_section(report: Report) -> str:
    """The card's words about it in Markdown; empty where the output is no LoRA adapter."""
    settings = report.get("adapters")
    modules = [layer for layer in report["layers"] if "rank" in layer]
    if settings is None or not modules:
        return ""
    ranks = sorted({layer["rank"] for layer in modules})
    told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    lines = [
        f"## Adapter\n\n{whole(len(modules))} modules, {told}, put together by `{settings['combine']}`; "
        "`PeftModel.from_pretrained(base, path)` lays the adapter on its base."
    ]
    for key, words in (
        ("truncation_error", "Share of an update's norm lost by the rank"),
        ("truncation_error_in_metric", "The same, weighed by curvature"),
        ("difference_from_sum", "Relative difference of the factors' product from the sum of updates"),
    ):
        values = [float(layer[key]) for layer in modules if layer.get(key) is not None]  # type: ignore[literal-required]
        if values:
            mean = sum(values) / len(values)
            lines.append(f"{words}: {short(mean)} on average, {short(max(values))} at most.")
    return "\n\n".join(lines)


def _present(report: Report) -> list[str]:
    return [key for key in NUMBERS if any(layer.get(key) is not None for layer in report["layers"])]
