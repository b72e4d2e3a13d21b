"""How a dataset is scored follows from its metrics: classes, ranked choices, numbers, written texts or tokens."""

from __future__ import annotations

from typing import Literal

from mats.data import DatasetSpec
from mats.data.metric_names import CLASS_METRICS, REGRESSION_METRICS, TEXT_METRICS
from mats.errors import RequestError

Kind = Literal["classes", "choices", "numbers", "texts", "tokens"]


def scoring_kind(spec: DatasetSpec) -> Kind:
    """What a model must do for the dataset's metrics to be computed.

    Returns:
        `classes`: highest logit. `choices`: likeliest answer choice. `numbers`: the head's one output. `texts`: write
        an answer. `tokens`: tell the probability of every token.

    Raises:
        RequestError: no metric is asked for, or metrics of different kinds.
    """
    kinds = {metric: _kind_of(metric, spec) for metric in spec.metrics}
    if not kinds:
        raise RequestError(
            f"dataset {spec.name}: metrics is empty, nothing would be scored; a metric, or mats generate to write the"
            " model's answers, would be right"
        )
    first = next(iter(kinds))
    for metric, kind in kinds.items():
        if kind != kinds[first]:
            raise RequestError(
                f"dataset {spec.name}: metrics {first} ({kinds[first]}) and {metric} ({kind}) are two ways of scoring;"
                " metrics of one kind, and a second dataset file for the other, would be right"
            )
    return kinds[first]


def _kind_of(metric: str, spec: DatasetSpec) -> Kind:
    if metric in TEXT_METRICS:
        return "texts"
    if metric == "perplexity":
        return "tokens"
    if metric in REGRESSION_METRICS:
        return "numbers"
    assert metric in CLASS_METRICS  # the specification was checked when made
    return "choices" if spec.task == "text_to_text" else "classes"
