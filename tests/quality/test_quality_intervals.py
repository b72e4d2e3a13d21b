"""The bootstrap: as it was for accuracy, and the metric itself of every resample for the others."""

from __future__ import annotations

import numpy as np
import pytest
from intervals import RESAMPLES, interval, resampled_shares
from metrics import score
from numpy.typing import NDArray

SEEDS, EXAMPLES = (0, 1), {"b": 40, "a": 50}
Outcomes = dict[int, dict[str, list[int]]]


def some_outcomes(seed: int, right: float, codes: bool = False) -> Outcomes:
    """Random answers: right with this probability; `codes` of two classes in place of right or wrong."""
    random = np.random.default_rng(seed)
    found: Outcomes = {}
    for each in SEEDS:
        found[each] = {}
        for name, count in EXAMPLES.items():
            correct = random.random(count) < right
            gold = np.arange(count) % 4 == 0
            found[each][name] = [int(v) for v in (2 * gold + (gold == correct) if codes else correct)]
    return found


def as_published(outcomes: Outcomes, own: Outcomes, scores: str = "accuracy") -> NDArray[np.float64]:
    """The loop that the published intervals of the first task set were made with, one resample at a time."""
    random = np.random.default_rng(0)
    shares = np.zeros((RESAMPLES, len(SEEDS)))
    for column, seed in enumerate(SEEDS):
        for name in sorted(EXAMPLES):
            merged, individual = np.asarray(outcomes[seed][name]), np.asarray(own[seed][name])
            for row in range(RESAMPLES):
                drawn = random.integers(0, len(individual), len(individual))
                if scores == "accuracy":
                    share = merged[drawn].sum() / max(individual[drawn].sum(), 1)
                else:
                    share = score(scores, merged[drawn]) / max(score(scores, individual[drawn]), 0.05)
                shares[row, column] += share / len(EXAMPLES)
    chosen = random.integers(0, len(SEEDS), (RESAMPLES, len(SEEDS)))
    return np.take_along_axis(shares, chosen, axis=1).mean(axis=1)


def test_resamples_of_accuracy_are_those_that_were_published() -> None:
    merged, own = some_outcomes(1, 0.6), some_outcomes(2, 0.9)
    found = resampled_shares(merged, own, dict.fromkeys(EXAMPLES, "accuracy"))
    np.testing.assert_allclose(found, as_published(merged, own), rtol=1e-12)


@pytest.mark.parametrize("metric", ["f1", "matthews_correlation"])
def test_resamples_of_other_metrics_are_the_metric_of_each_resample(metric: str) -> None:
    merged, own = some_outcomes(1, 0.6, codes=True), some_outcomes(2, 0.9, codes=True)
    found = resampled_shares(merged, own, dict.fromkeys(EXAMPLES, metric))
    np.testing.assert_allclose(found, as_published(merged, own, metric), rtol=1e-12)


def test_an_own_model_without_skill_leaves_every_resample_finite() -> None:
    merged, own = some_outcomes(1, 0.6, codes=True), some_outcomes(2, 0.5, codes=True)
    own[0]["a"] = [0, 2] * 25  # never answers 1: F1 and Matthews correlation 0
    for metric in ("f1", "matthews_correlation"):
        assert np.isfinite(resampled_shares(merged, own, dict.fromkeys(EXAMPLES, metric))).all()


def test_only_the_tasks_with_a_metric_count() -> None:
    merged, own = some_outcomes(1, 0.6), some_outcomes(2, 0.9)
    alone = {seed: {"b": found["b"]} for seed, found in own.items()}
    found = resampled_shares(merged, own, {"b": "accuracy"})
    assert found.tolist() == resampled_shares(merged, alone, {"b": "accuracy"}).tolist()


def test_the_same_draws_pair_rows_and_do_not_depend_on_the_order_of_tasks() -> None:
    merged, own = some_outcomes(1, 0.6), some_outcomes(2, 0.9)
    metrics = dict.fromkeys(EXAMPLES, "accuracy")
    first = resampled_shares(merged, own, metrics)
    assert interval(first - resampled_shares(merged, own, dict.fromkeys(reversed(EXAMPLES), "accuracy"))) == [0, 0]
    low, high = interval(first)
    assert low < first.mean() < high
    assert np.mean((first >= low) & (first <= high)) == pytest.approx(0.95, abs=0.01)
