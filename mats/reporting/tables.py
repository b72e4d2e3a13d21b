"""Tables of a merge for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mats.reporting.explanations import rule_meaning
from mats.reporting.numbers import bounded, change, percent, short, whole
from mats.reporting.report import LayerEntry, Report
from mats.reporting.summary import (
    LossTotal,
    fallback_reasons,
    least_certain,
    solved_layers,
    stop_reasons,
    totals_by_meaning,
    totals_of,
    unconverged,
)


def rules_table(report: Report) -> Table:
    """Parameters under each rule, the largest first."""
    table = _table("Parameters by rule", ["rule"], ["parameters", "share"], ["uses"])
    total = report["parameters"]["total"] or 1
    for rule, count in sorted(report["parameters"]["by_rule"].items(), key=lambda item: (-item[1], item[0])):
        table.add_row(Text(rule), whole(count), percent(count / total), Text(rule_meaning(rule)))
    return table


def losses_tables(report: Report) -> list[Table]:
    """Each model's quadratic before → after; one table for losses, one for output errors, none for data-free merges."""
    return [_totals_table(title, totals) for title, totals in totals_by_meaning(report)]


def losses_table(title: str, layers: Sequence[LayerEntry], models: Sequence[str]) -> Table:
    """Each model's quadratic before → after, summed over these layers."""
    return _totals_table(title, totals_of(layers, models))


def _totals_table(title: str, totals: Sequence[LossTotal]) -> Table:
    table = _table(title, ["model"], ["at the start", "merged", "change"])
    for total in totals:
        style = "red" if total.after > total.before else "green"
        relative = Text(change(total.before, total.after), style=style)
        table.add_row(Text(total.model), short(total.before), short(total.after), relative)
    return table


def layers_table(report: Report, *, limit: int | None = None) -> Table:
    """Certificates; with a `limit`, the layers with the largest residuals."""
    return certificates_table(solved_layers(report), limit=limit)


def certificates_table(layers: Sequence[LayerEntry], *, limit: int | None = None) -> Table:
    """Certificates of these layers, in their order; with a `limit`, those with the largest residuals."""
    title = f"Certificates of {len(layers)} systems"
    if limit is not None and len(layers) > limit:
        layers = sorted(layers, key=lambda layer: -(layer.get("relative_residual") or 0.0))[:limit]
        title += f" (the {limit} largest residuals)"
    rules = any(layer["rule"] for layer in layers)
    numbers = ["iterations", "residual", "left at most", "movement", "held", "unseen"]
    table = _table(title, ["layer", *(["rule"] if rules else [])], numbers, ["stopped"])
    table.caption = (
        "left at most: share of the attainable decrease that can still be gained (~ an estimate, ° on retained "
        "eigenvalues); held: by damping and anchor; unseen: share of the move that no model sees"
    )
    table.caption_justify = "left"
    for layer in layers:
        table.add_row(*_layer_row(layer, rules=rules))
    return table


def _layer_row(layer: LayerEntry, *, rules: bool) -> list[RenderableType]:
    style = "red" if layer.get("converged") is False else ""
    return [
        Text(layer["name"]),
        *([Text(layer["rule"])] if rules else []),
        whole(layer.get("iterations")),
        Text(short(layer.get("relative_residual")), style=style),
        bounded(layer),
        short(layer.get("movement")),
        percent(layer.get("pull_share")),
        percent(layer.get("null_share")),
        Text((layer.get("stop_reason") or "").replace("_", " "), style=style),
    ]


def summary(report: Report) -> Group:
    """What `mats merge` prints at its end."""
    parts: list[RenderableType] = [rules_table(report), *losses_tables(report)]
    reasons = stop_reasons(report)
    if reasons:
        listed = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in reasons)
        parts.append(Text(f"{len(solved_layers(report))} systems solved; stopped by: {listed}"))
    if (worst := least_certain(report)) is not None:
        parts.append(
            Text(f"at most {percent(worst.get('remaining_share'), 2)} of any layer's decrease is left to gain")
        )
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
