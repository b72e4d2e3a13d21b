"""What scoring one model on one dataset gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mats.data.metric_names import TEXT_METRICS
from mats.errors import NonFiniteStatistic
from mats.evaluation.intervals import Interval, bootstrap_interval
from mats.evaluation.metrics import compute_metrics, unknown_metric
from mats.files import write_bytes_atomically


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one model on one dataset.

    Attributes:
        metric: Name of the main metric.
        value: Its value, a fraction (0.83, not 83); a perplexity is what it is.
        metrics: Every metric asked for, the main one included.
        examples: Number of examples scored.
        predictions: Per example, in order: `example_id` and
            `prediction` and `gold` (indices) and `scores` (logits of the classes, log-probabilities of the choices);
            `prediction` and `gold` (numbers) of a regression;
            `prediction` (the text written), `gold` (the right texts), `answer` (what the metric read in the text) and
            `scores` (metric → 0 to 1) of written texts;
            for a perplexity, per window instead, `log_likelihood` (nats) and `tokens`.
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    examples: int
    predictions: tuple[dict[str, Any], ...]

    @property
    def standard_error(self) -> float | None:
        """Binomial standard error of an accuracy; None for other metrics."""
        if self.metric != "accuracy":
            return None
        return math.sqrt(self.value * (1.0 - self.value) / self.examples)

    @cached_property
    def interval(self) -> Interval | None:
        """Bootstrap 95 % interval of the main metric over examples (seed 0); None for fewer than two examples."""
        return bootstrap_interval(self.metric, self.predictions)

    def summary(self) -> dict[str, Any]:
        """The result without its predictions, ready for JSON."""
        return {
            "metric": self.metric,
            "value": self.value,
            "interval": self.interval.as_json() if self.interval is not None else None,
            "standard_error": self.standard_error,
            "metrics": dict(self.metrics),
            "examples": self.examples,
        }


def result_of(metrics: Sequence[str], predictions: Sequence[dict[str, Any]], examples: int) -> EvaluationResult:
    """The metrics of predictions, as they come from a model or from a file of predictions.

    Args:
        metrics: The first one is the result's `value`.
        predictions: See `EvaluationResult`.
        examples: Number of examples (a perplexity has other units, windows).

    Raises:
        RequestError: a metric is unknown, or one for which the predictions lack what it needs.
    """
    values = {name: _value(name, predictions) for name in metrics}
    return EvaluationResult(metrics[0], values[metrics[0]], values, examples, tuple(predictions))


def _value(name: str, predictions: Sequence[dict[str, Any]]) -> float:
    first = predictions[0]
    if "log_likelihood" in first:
        if name != "perplexity":
            raise unknown_metric(name)
        return _perplexity(predictions)
    if name in TEXT_METRICS and isinstance(first.get("scores"), dict):
        return math.fsum(entry["scores"][name] for entry in predictions) / len(predictions)
    predicted, gold = (torch.tensor([entry[column] for entry in predictions]) for column in ("prediction", "gold"))
    return compute_metrics([name], predicted, gold, len(first.get("scores", ())))[name]


def _perplexity(windows: Sequence[dict[str, Any]]) -> float:
    """exp(−mean log-likelihood per token)."""
    loss = -math.fsum(window["log_likelihood"] for window in windows) / sum(window["tokens"] for window in windows)
    try:
        return math.exp(loss)
    except OverflowError as error:
        raise NonFiniteStatistic(
            f"perplexity: exp({loss:.0f}) is beyond any number; the model is not one of this text"
        ) from error


def write_predictions(result: EvaluationResult, path: Path) -> Path:
    """Write one JSON object per example to `path` (its folder is made), whole or not at all; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in result.predictions]
    write_bytes_atomically(path, ("\n".join(lines) + "\n").encode())
    return path
