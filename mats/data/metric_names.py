"""The scores a dataset file may ask for, and which task they belong to; `mats.evaluation` computes them."""

from __future__ import annotations

from typing import Literal, get_args

ClassMetric = Literal["accuracy", "f1", "f1_macro", "matthews_correlation", "accuracy_f1"]
RegressionMetric = Literal["pearson", "spearman", "pearson_spearman"]
TextMetric = Literal["exact_match", "squad_exact_match", "squad_f1", "squad", "gsm8k", "math"]
MetricName = Literal[ClassMetric, RegressionMetric, TextMetric, "perplexity"]

CLASS_METRICS: tuple[str, ...] = get_args(ClassMetric)
REGRESSION_METRICS: tuple[str, ...] = get_args(RegressionMetric)
TEXT_METRICS: tuple[str, ...] = get_args(TextMetric)


def metrics_for(task: str, *, has_choices: bool) -> tuple[str, ...]:
    """The metrics that make sense for a task; the first is the default.

    Args:
        task: What the model is asked to do.
        has_choices: text_to_text: whether it picks one of several answers.
    """
    if task == "text_regression":
        return ("pearson_spearman", *REGRESSION_METRICS[:2])
    if task == "language_modeling":
        return ("perplexity", *TEXT_METRICS)
    if task == "text_to_text" and not has_choices:
        return TEXT_METRICS
    if task == "text_to_text":
        return (*CLASS_METRICS, *TEXT_METRICS)
    return CLASS_METRICS
