"""The certificates of all layers as rows of the page's table."""

from __future__ import annotations

from mats.reporting.adapters import adapter_cells, adapter_columns
from mats.reporting.html_table import Cell, Column, number_cell, text_cell
from mats.reporting.numbers import bounded, dimensions, short
from mats.reporting.report import LayerEntry, Report
from mats.reporting.summary import solved_layers


def layer_columns(report: Report) -> list[Column]:
    """Headings for `layer_rows`: certificates only where something was solved."""
    columns = [Column("layer", text=True), Column("rule", text=True), Column("shape", text=True)]
    if solved_layers(report):
        columns += [Column(title) for title in ("iterations", "rel. residual", "left at most")]
        columns += [Column("stopped", text=True)]
        columns += [Column(title) for title in ("anchor μ", "movement", "held", "null share")]
        columns += [Column(f"{model['name']}: before → after") for model in report["models"]]
    columns += adapter_columns(report)
    return [*columns, Column("rounding loss"), Column("fell back because", text=True)]


def layer_rows(report: Report, most: int) -> list[list[Cell]]:
    """One row per layer, in the order of the checkpoint: the first `most` of them."""
    models = [model["name"] for model in report["models"]]
    certified = bool(solved_layers(report))
    return [_row(layer, models, certified, adapter_cells(layer, report)) for layer in report["layers"][:most]]


def _row(layer: LayerEntry, models: list[str], certified: bool, adapter: list[Cell]) -> list[Cell]:
    bias = " + bias" if layer.get("bias") else ""
    cells = [text_cell(layer["name"]), text_cell(layer["rule"]), text_cell(dimensions(layer["shape"]) + bias)]
    if certified:
        missed = "worse" if layer.get("converged") is False else ""
        cells += [
            number_cell(layer.get("iterations")),
            number_cell(layer.get("relative_residual"), missed),
            Cell(bounded(layer), value=repr(layer.get("remaining_share") or 0.0)),
            text_cell((layer.get("stop_reason") or "").replace("_", " "), missed),
            number_cell(layer.get("anchor")),
            number_cell(layer.get("movement")),
            number_cell(layer.get("pull_share")),
            number_cell(layer.get("null_share")),
            *(_loss_cell(layer, model) for model in models),
        ]
    reason = layer.get("fallback_reason") or ""
    return [*cells, *adapter, number_cell(layer.get("rounding_loss")), text_cell(reason, "wrap" if reason else "")]


def _loss_cell(layer: LayerEntry, model: str) -> Cell:
    """Sorted by how much the quadratic changes, since layers that got worse are what one looks for."""
    before, after = (layer.get("loss_before") or {}).get(model), (layer.get("loss_after") or {}).get(model)
    if before is None or after is None:
        return number_cell(None)
    style = "worse" if after > before else "better" if after < before else ""
    return Cell(f"{short(before)} → {short(after)}", value=repr(after - before), style=style)
