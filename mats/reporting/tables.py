"""Tables of a merge for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mats.reporting.explanations import rule_meaning
from mats.reporting.numbers import change, percent, short, whole
from mats.reporting.report import LayerEntry, Report
from mats.reporting.summary import fallback_reasons, solved_layers, stop_reasons, totals_by_meaning, unconverged


def rules_table(report: Report) -> Table:
    """Parameters under each rule, the largest first."""
    table = _table("Parameters by rule", ["rule"], ["parameters", "share"], ["uses"])
    total = report["parameters"]["total"] or 1
    for rule, count in sorted(report["parameters"]["by_rule"].items(), key=lambda item: (-item[1], item[0])):
        table.add_row(Text(rule), whole(count), percent(count / total), Text(rule_meaning(rule)))
    return table


def losses_tables(report: Report) -> list[Table]:
    """Each model's quadratic before → after; one table for losses, one for output errors, none for data-free merges."""
    tables = []
    for title, totals in totals_by_meaning(report):
        table = _table(title, ["model"], ["at the start", "merged", "change"])
        for total in totals:
            style = "red" if total.after > total.before else "green"
            relative = Text(change(total.before, total.after), style=style)
            table.add_row(Text(total.model), short(total.before), short(total.after), relative)
        tables.append(table)
    return tables


def layers_table(report: Report, *, limit: int | None = None) -> Table:
    """Certificates; with a `limit`, the layers with the largest residuals."""
    layers = solved_layers(report)
    title = f"Certificates of {len(layers)} systems"
    if limit is not None and len(layers) > limit:
        layers = sorted(layers, key=lambda layer: -(layer.get("relative_residual") or 0.0))[:limit]
        title += f" (the {limit} largest residuals)"
    table = _table(title, ["layer", "rule"], ["iterations", "residual", "anchor μ", "movement"], ["stopped"])
    for layer in layers:
        table.add_row(*_layer_row(layer))
    return table


def _layer_row(layer: LayerEntry) -> list[RenderableType]:
    style = "red" if layer.get("converged") is False else ""
    return [
        Text(layer["name"]),
        Text(layer["rule"]),
        whole(layer.get("iterations")),
        Text(short(layer.get("relative_residual")), style=style),
        short(layer.get("anchor")),
        short(layer.get("movement")),
        Text((layer.get("stop_reason") or "").replace("_", " "), style=style),
    ]


def summary(report: Report) -> Group:
    """What `mats merge` prints at its end."""
    parts: list[RenderableType] = [rules_table(report), *losses_tables(report)]
    reasons = stop_reasons(report)
    if reasons:
        listed = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in reasons)
        parts.append(Text(f"{len(solved_layers(report))} systems solved; stopped by: {listed}"))
    if missed := unconverged(report):
        parts.append(Text(f"{len(missed)} missed their tolerance; the first is {missed[0]['name']}", style="red"))
    if (vocabulary := report.get("vocabulary")) is not None:
        parts.append(Text(vocabulary["line"]))
    for reason, count, first in fallback_reasons(report):
        parts.append(Text(f"{count} × {reason} (first: {first})", style="dim"))
    return Group(*parts)


def _table(title: str, words: list[str], numbers: list[str], more_words: list[str] | None = None) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim"
    )
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in more_words or []:
        table.add_column(heading)
    return table
