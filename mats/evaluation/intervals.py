"""Bootstrap intervals of scores: what other examples from the same source might have given.

The percentile bootstrap over examples (Efron 1979): examples are drawn with replacement, N of N, and the metric is
computed anew; the interval holds the middle 95 % of the results. It knows nothing of other seeds of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mats.data.metric_names import CLASS_METRICS, REGRESSION_METRICS, TEXT_METRICS
from mats.errors import InputsMismatch
from mats.evaluation.metrics import unknown_metric
from mats.evaluation.resampled import resampled_class_metric, resampled_number_metric

RESAMPLES = 1000
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 1 << 20  # indices held in memory

Predictions = Sequence[Mapping[str, Any]]
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float

    def as_json(self) -> list[float]:
        """`[low, high]`."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Difference:
    """How far one model's score lies above another's on the same examples.

    Attributes:
        value: The first model's score minus the second's.
        interval: Its paired bootstrap interval: every resample takes the same examples of both. Where it holds 0, these
            examples do not tell the models apart.
    """

    value: float
    interval: Interval | None


def bootstrap_interval(
    metric: str, predictions: Predictions, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The interval of one metric of one model's predictions; None for fewer than two examples.

    Args:
        metric: Of `METRICS`.
        predictions: An `EvaluationResult`'s, or the lines of a predictions file.
        resamples: Number of resamples.
        seed: The same seed gives the same interval.

    Raises:
        RequestError: the metric is unknown.
    """
    return median_interval(metric, [predictions], resamples=resamples, seed=seed)


def median_interval(
    metric: str, templates: Sequence[Predictions], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The interval of the median over prompt templates: a resample takes the same examples under every template.

    Raises:
        InputsMismatch: the templates were scored on different examples.
        RequestError: the metric is unknown.
    """
    _check_same_examples(templates)
    return _bootstrap(_median(metric, templates), len(templates[0]), resamples, seed)


def paired_difference(
    metric: str, first: Predictions, second: Predictions, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """How far `first` scores above `second`, both on the same examples in the same order.

    Raises:
        InputsMismatch: they are predictions of different examples.
        RequestError: the metric is unknown.
    """
    return median_difference(metric, [first], [second], resamples=resamples, seed=seed)


def median_difference(
    metric: str,
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """How far the median over templates of one model lies above that of another, all on the same examples.

    Raises:
        InputsMismatch: they are predictions of different examples.
        RequestError: the metric is unknown.
    """
    _check_same_examples([*first, *second])
    ours, theirs = _median(metric, first), _median(metric, second)

    def difference(indices: Tensor) -> Tensor:
        return ours(indices) - theirs(indices)

    count = len(first[0])
    value = float(difference(torch.arange(count).unsqueeze(0))[0])
    return Difference(value, _bootstrap(difference, count, resamples, seed))


def _median(metric: str, templates: Sequence[Predictions]) -> Statistic:
    statistics = [statistic_of(metric, predictions) for predictions in templates]
    return lambda indices: torch.stack([statistic(indices) for statistic in statistics]).quantile(0.5, dim=0)


def statistic_of(metric: str, predictions: Predictions) -> Statistic:
    """The metric as a function of resamples: indices of examples, int64 [R, N] → float64 [R].

    Raises:
        RequestError: the metric is unknown.
    """
    if metric in CLASS_METRICS:
        predicted, gold = _column(predictions, "prediction"), _column(predictions, "gold")
        classes = int(max(predicted.max(), gold.max())) + 1
        return lambda indices: resampled_class_metric(metric, predicted[indices], gold[indices], classes)
    if metric in REGRESSION_METRICS:
        predicted, gold = _column(predictions, "prediction").double(), _column(predictions, "gold").double()
        return lambda indices: resampled_number_metric(metric, predicted[indices], gold[indices])
    if metric in TEXT_METRICS:
        scores = torch.tensor([entry["scores"][metric] for entry in predictions], dtype=torch.float64)
        return lambda indices: scores[indices].mean(dim=1)
    if metric == "perplexity":
        total, tokens = _column(predictions, "log_likelihood").double(), _column(predictions, "tokens").double()
        return lambda indices: (-total[indices].sum(dim=1) / tokens[indices].sum(dim=1)).exp()
    raise unknown_metric(metric)


def _bootstrap(statistic: Statistic, count: int, resamples: int, seed: int) -> Interval | None:
    from scipy.stats import bootstrap

    if count < 2:
        return None

    def vectorised(indices: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        assert axis == -1
        values: NDArray[np.float64] = statistic(torch.as_tensor(np.atleast_2d(indices))).numpy()
        return values

    outcome = bootstrap(
        (np.arange(count),),
        vectorised,
        n_resamples=resamples,
        batch=max(1, DRAWS_AT_ONCE // count),
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = outcome.confidence_interval
    return Interval(float(np.squeeze(low)), float(np.squeeze(high)))


def _column(predictions: Predictions, name: str) -> Tensor:
    return torch.tensor([entry[name] for entry in predictions])


def _check_same_examples(several: Sequence[Predictions]) -> None:
    ours = [entry["example_id"] for entry in several[0]]
    for other in several[1:]:
        theirs = [entry["example_id"] for entry in other]
        if ours != theirs:
            place = next((a for a, b in zip(ours, theirs, strict=False) if a != b), None)
            where = f"from example {place} on" if place is not None else f"{len(ours)} against {len(theirs)} of them"
            raise InputsMismatch(
                f"predictions of different examples ({where}); the same split and slice would be right"
            )
