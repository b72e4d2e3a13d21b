"""What a task is scored by, computed from one small number for each example: its outcome.

    accuracy                1 where the answer is right, else 0
    matthews_correlation    2 · gold + predicted, of two classes
    f1                      the same, for F1 of class 1

Outcomes are what is kept of a model's answers. A metric needs no more than how often each of them occurs, among the
examples or among those of a resample. F1 and Matthews correlation are the same with gold and predicted exchanged; the
code keeps them apart for whoever reads the answers later.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OUTCOMES = {"accuracy": 2, "matthews_correlation": 4, "f1": 4}
"""Metric → how many outcomes there are."""

FLOOR = 0.05
"""The least that an own model counts as where it is divided by: F1 or Matthews correlation of a resample can be 0."""


def outcome(metric: str, gold: int, predicted: int) -> int:
    """What is kept of one answer.

    Raises:
        ValueError: the metric is of two classes, and a class is neither 0 nor 1.
    """
    if metric == "accuracy":
        return int(gold == predicted)
    if gold not in (0, 1) or predicted not in (0, 1):
        raise ValueError(f"{metric}: classes {gold} (gold) and {predicted} (predicted); 0 and 1 would be right")
    return 2 * gold + predicted


def score(metric: str, outcomes: Sequence[int]) -> float:
    """The metric of all examples."""
    return float(score_of_counts(metric, np.bincount(outcomes, minlength=OUTCOMES[metric])))


def score_of_counts(metric: str, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The metric from how often each outcome occurs: [..., outcomes] → [...]; 0 where it is not defined."""
    counts = counts.astype(np.float64)  # products of four counts are exact up to 2^53
    if metric == "accuracy":
        return counts[..., 1] / counts.sum(axis=-1)
    rightly_0, wrongly_1, wrongly_0, rightly_1 = np.moveaxis(counts, -1, 0)
    if metric == "f1":
        return 2 * rightly_1 / np.maximum(2 * rightly_1 + wrongly_1 + wrongly_0, 1)
    covariance = rightly_1 * rightly_0 - wrongly_1 * wrongly_0
    gold = (rightly_1 + wrongly_0) * (rightly_0 + wrongly_1)
    predicted = (rightly_1 + wrongly_1) * (rightly_0 + wrongly_0)
    return covariance / np.sqrt(np.maximum(gold * predicted, 1))


def share_of(merged: NDArray[np.float64] | float, own: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """A merge's score ÷ that of the task's own model, which counts as `FLOOR` at least."""
    return np.asarray(merged / np.maximum(own, FLOOR))
