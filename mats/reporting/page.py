"""`report.html`: one page that explains a merge, with everything it needs inside it."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

import yaml

from mats.reporting.card import measured_on
from mats.reporting.explanations import method_formula, method_sentence, rule_meaning
from mats.reporting.html_table import Cell, Column, html_table, number_cell, text_cell
from mats.reporting.layer_table import layer_columns, layer_rows
from mats.reporting.numbers import bounded, change, compact, percent, short, whole
from mats.reporting.report import Report
from mats.reporting.summary import (
    covered_share,
    fallback_reasons,
    least_certain,
    rounding_total,
    solved_layers,
    stop_reasons,
    totals_by_meaning,
    unconverged,
    worst_residual,
)

MOST_ROWS = 5000  # of the table of layers; a browser takes seconds to show more


def render_page(report: Report, picture: str | None) -> str:
    """The page as HTML; `picture` is an SVG to show (None: no layer was solved, the page says so)."""
    template = Template(files("mats.reporting").joinpath("page.html").read_text(encoding="utf-8"))
    sections = [
        _header(report),
        _tiles(report),
        _models(report),
        _losses(report),
        _rules(report),
        _fallbacks(report),
        _picture(picture),
        _layers(report),
        _names(report),
        _recipe(report),
    ]
    return template.substitute(title=f"Merge by {escape(report['method'])}", body="\n".join(filter(None, sections)))


def _header(report: Report) -> str:
    base = f"<code>{escape(report['base'])}</code>" if report["base"] else "no base model"
    models = ", ".join(escape(model["name"]) for model in report["models"])
    return (
        f"<h1>Merge by {escape(report['method'])}</h1>\n<p>{len(report['models'])} models ({models}) on {base}.</p>\n"
        f"<p class=soft>{escape(method_sentence(report['method']))}"
        f" <span class=formula>{escape(method_formula(report['method']))}</span></p>"
    )


def _tiles(report: Report) -> str:
    worst, missed = worst_residual(report), len(unconverged(report))
    tiles = [(compact(report["parameters"]["total"]), "parameters")]
    if solved := solved_layers(report):
        tiles += [
            (percent(covered_share(report)), "of them merged by curvature"),
            (whole(len(solved)), "systems solved"),
        ]
    if worst is not None:
        tiles += [
            (short(worst.get("relative_residual")), "largest true relative residual"),
            (whole(missed), "missed their tolerance"),
        ]
    if (least := least_certain(report)) is not None:
        tiles.append((bounded(least), "of any layer's decrease is left at most"))
    for title, totals in totals_by_meaning(report):
        before, after = sum(total.before for total in totals), sum(total.after for total in totals)
        tiles.append((change(before, after), f"{title.split(' (')[0].lower()}, all models"))
    if (rounding := rounding_total(report)) is not None:
        tiles.append((short(rounding), "loss by rounding the output"))
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{a}</b><span>{b}</span></div>" for a, b in tiles) + "</div>"
    )


def _models(report: Report) -> str:
    columns = [Column("model", text=True), Column("weight"), Column("measured examples")]
    columns += [Column("path", text=True), Column("metadata", text=True)]
    rows = [
        [
            text_cell(model["name"]),
            number_cell(model["weight"]),
            Cell(measured_on(model), value=str(model.get("examples") or "")),
            text_cell(model["path"]),
            text_cell(model.get("metadata") or "none"),
        ]
        for model in report["models"]
    ]
    return "<h2>Models</h2>" + html_table(columns, rows)


def _losses(report: Report) -> str:
    parts = []
    for title, totals in totals_by_meaning(report):
        rows = [
            [
                text_cell(total.model),
                number_cell(total.before),
                number_cell(total.after),
                _change_cell(total.before, total.after),
            ]
            for total in totals
        ]
        columns = [Column("model", text=True), Column("at the start"), Column("merged"), Column("change")]
        parts.append(f"<h2>{escape(title)}</h2>" + html_table(columns, rows))
    if parts:
        parts.append(
            "<p class=soft>Σ over layers of ½⟨W − W_i, C_i (W − W_i)⟩, each model around its own weights: 0 would be"
            " the model itself. Only layers with measured curvature count.</p>"
        )
    return "\n".join(parts)


def _change_cell(before: float, after: float) -> Cell:
    relative = (after - before) / before if before > 0 else None
    return Cell(change(before, after), value=str(relative or 0.0), style="worse" if after > before else "better")


def _rules(report: Report) -> str:
    total = report["parameters"]["total"] or 1
    columns = [
        Column("rule", text=True),
        Column("parameters"),
        Column("share"),
        Column("", text=True),
        Column("uses", text=True),
    ]
    ordered = sorted(report["parameters"]["by_rule"].items(), key=lambda item: (-item[1], item[0]))
    rows = [
        [
            text_cell(rule),
            Cell(whole(count), value=str(count)),
            Cell(percent(count / total), value=str(count)),
            Cell(f'<span class=bar style="width:{max(count / total, 0.002) * 14:.2f}rem"></span>', raw=True, text=True),
            text_cell(rule_meaning(rule)),
        ]
        for rule, count in ordered
    ]
    return "<h2>Parameters by rule</h2>" + html_table(columns, rows)


def _fallbacks(report: Report) -> str:
    reasons = fallback_reasons(report)
    if not reasons:
        return ""
    items = [
        f"<li>{whole(count)} × {escape(reason)} <span class=soft>(first: <code>{escape(first)}</code>)</span></li>"
        for reason, count, first in reasons
    ]
    return "<h2>What fell back, and why</h2><ul>" + "".join(items) + "</ul>"


def _picture(picture: str | None) -> str:
    if picture is None:
        return "<p class=soft>No system was solved: this merge works entry by entry.</p>"
    return f"<h2>Layer by layer</h2><figure>{picture[picture.index('<svg') :]}</figure>"


def _layers(report: Report) -> str:
    if not report["layers"]:
        return ""
    reasons = ", ".join(f"{escape(reason.replace('_', ' '))} {whole(count)}" for reason, count in stop_reasons(report))
    note = f"<p class=soft>Reasons to stop: {reasons}.</p>" if reasons else ""
    filter_box = '<input type=search data-table=layers placeholder="filter: attention kfac" aria-label="filter layers">'
    rows = layer_rows(report, MOST_ROWS)
    table = html_table(layer_columns(report), rows, name="layers", tall=True)
    title = "Certificates" if solved_layers(report) else "Tensors"
    note += _legend(report)
    left = len(report["layers"]) - len(rows)
    rest = f"<p class=soft>{whole(left)} more are in <code>report.json</code>.</p>" if left else ""
    return f"<h2>{title}</h2>{note}{filter_box}{table}{rest}"


def _legend(report: Report) -> str:
    """What the less common columns of the table mean."""
    if not solved_layers(report):
        return ""
    return (
        "<p class=soft><i>left at most</i>: the share of the attainable decrease that can still be gained, proven from"
        " the residual and the smallest eigenvalue that damping and anchor allow (° on retained eigenvalues alone, ~ an"
        " estimate); <i>held</i>: how much of what holds the solution is damping and anchor; <i>null share</i>: how"
        " much of the move no model sees.</p>"
    )


def _names(report: Report) -> str:
    items = []
    for label, found in (("lacks", report["missing"]), ("has beyond the base", report["extra"])):
        items += [f"{model} {label}: {', '.join(names)}" for model, names in found.items() if names]
    if report.get("not_floating"):
        items.append(f"not floating point, taken from the base: {', '.join(report['not_floating'])}")
    items += [f"one tensor under several names: {', '.join(group)}" for group in report.get("tied", [])]
    items += report.get("notes", [])
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>" if items else ""


def _recipe(report: Report) -> str:
    recipe = report.get("recipe") or {"settings": report["settings"]}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return (
        f"<h2>Recipe</h2><pre>{escape(text)}</pre><p class=soft>Written by mats {escape(report['mats_version'])}.</p>"
    )
