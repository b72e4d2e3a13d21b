"""Several prompt templates: each scored alone, and the median and interquartile range over them told per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mats.data import DatasetSpec
from mats.errors import RequestError
from mats.evaluation.intervals import median_interval
from mats.evaluation.result import EvaluationResult


@dataclass(frozen=True)
class TemplateChoice:
    """One way of showing a dataset.

    Attributes:
        index: Of the template; None: as the dataset file says (one for all, or in turn).
        spec: The dataset, shown so.
    """

    index: int | None
    spec: DatasetSpec

    @property
    def label(self) -> str:
        """For progress and file names: `template 2`, or nothing."""
        return "" if self.index is None else f"template {self.index}"


def choose_templates(spec: DatasetSpec, wanted: str | None) -> list[TemplateChoice]:
    """How a dataset is shown.

    Args:
        spec: The dataset.
        wanted: `all`: each template alone; `0,2`: these alone; `cycle`: one after another over the examples; None: as
            the dataset file says. Datasets without templates are shown as they are.

    Raises:
        RequestError: a word that is none of these, or an index that the dataset does not have.
    """
    if not spec.known_templates:
        return [TemplateChoice(None, spec)]
    if wanted is None and spec.template_rule != "all":
        return [TemplateChoice(None, spec)]
    if wanted == "cycle":
        return [TemplateChoice(None, spec.model_copy(update={"template_rule": "cycle"}))]
    count = len(spec.known_templates)
    indices = range(count) if wanted in (None, "all") else parse_templates(str(wanted))
    return [TemplateChoice(index, spec.with_template(index)) for index in indices]


def parse_templates(wanted: str) -> list[int]:
    """The indices in `0,2,5`.

    Raises:
        RequestError: something else, or an index given twice.
    """
    parts = [part.strip() for part in wanted.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise RequestError(f"templates {wanted!r}: all, cycle, or indices such as 0,2 would be right")
    indices = [int(part) for part in parts]
    if len(set(indices)) < len(indices):
        raise RequestError(f"templates {wanted!r}: an index is given twice; each once would be right")
    return indices


def summarise_templates(choices: Sequence[TemplateChoice], results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """One dataset's result, ready for JSON: of one template as it is, of several their median.

    Returns:
        `EvaluationResult.summary()`; for several templates `value` and `metrics` are medians, `interval` is that of
        the median, and there are `quartiles` [25 %, 75 %], their distance `interquartile_range`, and `templates`.
    """
    if len(results) == 1 and choices[0].index is None:
        return results[0].summary()
    first = results[0]
    values = [result.value for result in results]
    low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    interval = median_interval(first.metric, [result.predictions for result in results])
    return {
        "metric": first.metric,
        "value": middle,
        "interval": interval.as_json() if interval is not None else None,
        "standard_error": None,
        "quartiles": [low, high],
        "interquartile_range": high - low,
        "metrics": {name: float(np.median([result.metrics[name] for result in results])) for name in first.metrics},
        "examples": first.examples,
        "templates": [
            {"index": choice.index, "name": choice.spec.template_names[choice.index or 0], **result.summary()}
            for choice, result in zip(choices, results, strict=True)
        ],
    }
