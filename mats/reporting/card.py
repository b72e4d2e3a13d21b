"""`README.md` of a merged model: the model card the Hub expects, saying what was merged and how."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mats.reporting.adapters import adapter_section
from mats.reporting.explanations import method_formula, method_paper, method_sentence, rule_meaning
from mats.reporting.numbers import change, percent, short, whole
from mats.reporting.report import ModelEntry, Report
from mats.reporting.summary import fallback_reasons, totals_by_meaning, unconverged

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE = re.compile(r"\.(pt|bin|safetensors)$")


def looks_like_hub_id(path: str) -> bool:
    """Whether `path` can be a Hub model id, `owner/name` or `name`: others would make the card's metadata invalid."""
    return bool(_HUB_ID.fullmatch(path)) and not _FILE.search(path) and not path.startswith("exp_out/")


def model_card(report: Report, *, title: str = "Merged model", has_plot: bool = True) -> str:
    """The card as Markdown with YAML front matter. `has_plot`: layers.png lies beside it."""
    sections = [
        _front_matter(report),
        f"# {title}\n\nThis model was made by merging "
        f"{len(report['models'])} models with `mats` {report['mats_version']}.",
        _how(report),
        _models(report),
        _heads(report),
        adapter_section(report),
        _losses(report),
        _parameters(report),
        "![Residuals, movement and predicted losses by layer](layers.png)" if has_plot else "",
        _recipe(report),
        "More: `report.html` (the same, layer by layer), `report.json` (for programs), `recipe.yaml` (to do it again).",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(report: Report) -> str:
    paths = [path for path in (report["base"], *(model["path"] for model in report["models"])) if path]
    known = list(dict.fromkeys(path for path in paths if looks_like_hub_id(path)))
    library = "peft" if report.get("adapters") else "transformers"
    metadata: dict[str, Any] = {"library_name": library, "tags": ["mats", "merge"]}
    if known:
        metadata = {"base_model": known, "base_model_relation": "merge", **metadata}
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---"


def _how(report: Report) -> str:
    paper = method_paper(report["method"])
    source = f" ([{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')}))" if paper else ""
    lines = [f"## How it was merged\n\nMethod `{report['method']}`{source}. {method_sentence(report['method'])}"]
    if formula := method_formula(report["method"]):
        lines.append(f"\n    {formula}")
    if missed := unconverged(report):
        lines.append(f"\n{len(missed)} systems missed their tolerance; the first is `{missed[0]['name']}`.")
    return "\n".join(lines)


def _models(report: Report) -> str:
    rows = [
        [model["name"], f"`{model['path']}`", short(model["weight"]), measured_on(model)] for model in report["models"]
    ]
    base = f"Base: `{report['base']}`." if report["base"] else "There is no base model."
    return f"## Models\n\n{base}\n\n" + markdown_table(["model", "path", "weight", "measured on (examples)"], rows)


def measured_on(model: ModelEntry) -> str:
    """How many examples, and where between base and model; or that there were none."""
    proxy, position = model.get("proxy"), model.get("position")
    if proxy is not None:
        return f"proxy ({proxy}), no data"
    return whole(model.get("examples")) + ("" if position is None else f", {position:g} of the way from the base")


def _heads(report: Report) -> str:
    heads = report.get("heads")
    if heads is None:
        return ""
    source = {"average": "the average of all heads", "base": "the base's head"}.get(
        heads["from"], f"the head of `{heads['owner']}`"
    )
    lines = [f"## Heads\n\nThe bodies were merged; on the result is {source}."]
    if heads["kept"]:
        lines.append(
            " Every model's own head lies in `heads/`; "
            f'`mats.checkpoints.load_model(path, task, head="{next(iter(heads["models"]))}")` puts it on the body.'
        )
    rows = [[model, str(len(names)), ", ".join(names[:4])] for model, names in heads["models"].items()]
    return "".join(lines) + "\n\n" + markdown_table(["model", "tensors of its head", "first"], rows)


def _losses(report: Report) -> str:
    parts = []
    for meaning, totals in totals_by_meaning(report):
        rows = [[t.model, short(t.before), short(t.after), change(t.before, t.after)] for t in totals]
        parts.append(f"## {meaning}\n\n" + markdown_table(["model", "at the start", "merged", "change"], rows))
    if parts:
        parts.append(
            "Each model's quadratic around its own weights, summed over the layers that have curvature. It is a"
            " prediction from stored statistics; no example was run through the merged model."
        )
    return "\n\n".join(parts)


def _parameters(report: Report) -> str:
    total = report["parameters"]["total"] or 1
    ordered = sorted(report["parameters"]["by_rule"].items(), key=lambda item: (-item[1], item[0]))
    rows = [[f"`{rule}`", whole(count), percent(count / total), rule_meaning(rule)] for rule, count in ordered]
    text = "## Parameters by rule\n\n" + markdown_table(["rule", "parameters", "share", "uses"], rows)
    reasons = [f"* {whole(count)} × {reason} (first: `{first}`)" for reason, count, first in fallback_reasons(report)]
    return text + ("\n\nWhat fell back, and why:\n\n" + "\n".join(reasons) if reasons else "")


def _recipe(report: Report) -> str:
    recipe = report.get("recipe") or {"settings": report["settings"]}
    return f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}```"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A GitHub table; the first column is words, the others are aligned right. Bars in cells are escaped."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
