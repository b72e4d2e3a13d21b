"""What does not fit together in a dataset file: one line per fault, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mats.data.metric_names import metrics_for
from mats.data.prompts import Template
from mats.data.sources import HubSource
from mats.data.templates import parse_template

if TYPE_CHECKING:
    from mats.data.spec import DatasetSpec


def faults_of(spec: DatasetSpec) -> list[str]:
    """Every contradiction of a dataset file whose single values are right."""
    return [
        *_template_faults(spec),
        *_label_faults(spec),
        *_task_faults(spec),
        *_scoring_faults(spec),
        *_split_faults(spec),
    ]


def _template_faults(spec: DatasetSpec) -> list[str]:
    faults = []
    given = [name for name in ("template", "templates", "prompts") if getattr(spec, name)]
    if len(given) > 1:
        faults.append(f"{' and '.join(given)} are both given; one of them would be right")
    if spec.prompts is not None and not spec.prompts.templates:
        faults.append("prompts: the templates were not read; mats.data.load_spec reads them")
    count = len(spec.known_templates)
    if isinstance(spec.template_rule, int) and not 0 <= spec.template_rule < max(count, 1):
        faults.append(f"template_rule: {spec.template_rule}; cycle, all, or 0 to {max(count, 1) - 1}, would be right")
    if spec.template_rule == "all" and count == 0:
        faults.append("template_rule: all, but there are no templates")
    repeated = {name for name in spec.template_names if spec.template_names.count(name) > 1}
    faults += [f"templates: the name '{name}' is given twice" for name in sorted(repeated)]
    for text in spec.choices if isinstance(spec.choices, tuple) else ():
        try:
            parse_template(text)
        except ValueError as error:
            faults.append(f"choices: {error}")
    return faults


def _label_faults(spec: DatasetSpec) -> list[str]:
    faults = []
    if spec.task.endswith("classification") and spec.num_labels is None:
        faults.append(f"labels: missing; the number or the names of the classes of this {spec.task} would be right")
    if spec.task == "text_regression" and spec.labels not in (None, 1):
        faults.append(f"labels: {spec.labels!r}; text_regression has one number per example, so none would be right")
    if spec.num_labels is not None and spec.num_labels < 1:
        faults.append(f"labels: {spec.num_labels}; 1 or more would be right")
    if len(set(spec.label_names)) < len(spec.label_names):
        faults.append("labels: a name is given twice")
    return faults


def _task_faults(spec: DatasetSpec) -> list[str]:
    known = [template for template in spec.known_templates if isinstance(template, Template)]
    faults = []
    if spec.task == "text_to_text" and not spec.known_templates and spec.prompts is None:
        faults.append("template: missing; text_to_text needs one, with a target or with choices")
    if spec.task == "text_to_text" and any(not (t.target or t.choices or spec.choices) for t in known):
        faults.append("template: has neither a target nor choices; one of them would be right")
    if spec.task != "text_to_text" and (spec.choices is not None or any(t.choices is not None for t in known)):
        faults.append(f"choices: given for {spec.task}; they belong to text_to_text")
    if spec.prompts is not None and spec.task not in ("text_to_text", "language_modeling"):
        faults.append(f"prompts: given for {spec.task}; they belong to text_to_text and language_modeling")
    if spec.padding_side == "left" and spec.task != "language_modeling":
        faults.append(f"padding_side: left; only right is defined for {spec.task}")
    if spec.task == "image_classification" and spec.image is None:
        faults.append(
            "image: missing; size and normalisation of the images would be right (image: {} for the defaults)"
        )
    return faults


def _scoring_faults(spec: DatasetSpec) -> list[str]:
    faults = []
    allowed = metrics_for(spec.task, has_choices=spec.has_choices)
    faults += [
        f"metrics: {name} does not fit {spec.task}; {', '.join(allowed)} would be right"
        for name in spec.metrics
        if name not in allowed
    ]
    if spec.generation is not None and spec.task not in ("text_to_text", "language_modeling"):
        faults.append(f"generation: given for {spec.task}; it belongs to text_to_text and language_modeling")
    if spec.perplexity is not None and spec.task != "language_modeling":
        faults.append(f"perplexity: given for {spec.task}; it belongs to language_modeling")
    if not spec.metrics and spec.generation is None:
        faults.append("metrics: none, and no generation either; one of them would be right")
    return faults


def _split_faults(spec: DatasetSpec) -> list[str]:
    if isinstance(spec.source, HubSource):
        return []
    known = spec.source.files
    return [
        f"splits.{name}.of: '{rule.of}' is no split of the source; {', '.join(known)} would be right"
        for name, rule in spec.splits.items()
        if rule.of not in known
    ]
