"""Metrics from outcomes, held to scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics import FLOOR, OUTCOMES, outcome, score, score_of_counts, share_of
from scoring import accuracy, normalised
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torchmetrics.functional.classification import binary_f1_score, binary_matthews_corrcoef

answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


def outcomes_of(metric: str, pairs: list[tuple[int, int]]) -> list[int]:
    return [outcome(metric, gold, predicted) for gold, predicted in pairs]


@pytest.mark.filterwarnings("ignore:A single label was found")  # zero_division says what is wanted there
@given(answers)
def test_each_metric_is_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    assert score("accuracy", outcomes_of("accuracy", pairs)) == pytest.approx(accuracy_score(gold, predicted))
    expected = f1_score(gold, predicted, pos_label=1, zero_division=0)
    assert score("f1", outcomes_of("f1", pairs)) == pytest.approx(expected)
    found = score("matthews_correlation", outcomes_of("matthews_correlation", pairs))
    assert found == pytest.approx(matthews_corrcoef(gold, predicted))


@given(answers.filter(lambda pairs: all(len(set(side)) == 2 for side in zip(*pairs, strict=True))))
def test_both_metrics_of_two_classes_are_torchmetrics(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))  # its own rule where a side is constant
    assert score("f1", outcomes_of("f1", pairs)) == pytest.approx(float(binary_f1_score(predicted, gold)), abs=1e-6)
    expected = float(binary_matthews_corrcoef(predicted, gold))
    assert score("matthews_correlation", outcomes_of("matthews_correlation", pairs)) == pytest.approx(
        expected, abs=1e-6
    )


def test_a_code_tells_gold_from_predicted() -> None:
    assert [outcome("f1", gold, predicted) for gold in (0, 1) for predicted in (0, 1)] == [0, 1, 2, 3]
    assert outcome("f1", gold=1, predicted=0) != outcome("f1", gold=0, predicted=1)
    assert [outcome("accuracy", gold, predicted) for gold, predicted in ((5, 5), (5, 4))] == [1, 0]


def test_exact_cases() -> None:
    pairs = [(1, 1)] * 3 + [(1, 0)] * 1 + [(0, 1)] * 2 + [(0, 0)] * 6
    assert score("f1", outcomes_of("f1", pairs)) == 2 * 3 / (2 * 3 + 1 + 2)
    expected = (3 * 6 - 2 * 1) / (5 * 4 * 8 * 7) ** 0.5
    assert score("matthews_correlation", outcomes_of("matthews_correlation", pairs)) == pytest.approx(expected)
    other_class = [(1 - gold, 1 - predicted) for gold, predicted in pairs]
    assert score("f1", outcomes_of("f1", other_class)) == 2 * 6 / (2 * 6 + 2 + 1)  # class 1 counts, not class 0
    wrong = [(gold, 1 - gold) for gold, _ in pairs]
    assert score("matthews_correlation", outcomes_of("matthews_correlation", wrong)) == -1


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("metric", ["f1", "matthews_correlation"])
def test_always_the_same_answer_is_no_skill(metric: str, constant: int) -> None:
    assert score("matthews_correlation", outcomes_of("matthews_correlation", [(0, constant), (1, constant)])) == 0
    assert score("f1", outcomes_of("f1", [(0, 0), (1, 0)])) == 0
    assert score(metric, outcomes_of(metric, [(0, 0)])) == 0  # neither is defined


def test_a_third_class_is_refused_where_there_are_two() -> None:
    with pytest.raises(ValueError, match=r"f1: classes 1 \(gold\) and 2 \(predicted\); 0 and 1 would be right"):
        outcome("f1", 1, 2)


@pytest.mark.parametrize("metric", OUTCOMES)
def test_many_counts_at_once_are_each_alone(metric: str) -> None:
    outcomes = np.random.default_rng(0).integers(0, OUTCOMES[metric], (5, 30))
    counts = np.stack([np.bincount(row, minlength=OUTCOMES[metric]) for row in outcomes])
    assert score_of_counts(metric, counts).tolist() == [score(metric, row) for row in outcomes]


def test_a_share_of_nothing_is_no_division_by_zero() -> None:
    assert share_of(np.array([0.5, 0.5, -0.1]), np.array([0.8, -0.2, 0.0])).tolist() == [
        0.5 / 0.8,
        0.5 / FLOOR,
        -0.1 / FLOOR,
    ]


def test_shares_go_by_the_task_s_metric_and_by_accuracy_where_none_is_named() -> None:
    own = {"plain": [1, 1, 1, 0], "coded": [3, 3, 2, 0]}
    merged = {"plain": [1, 0, 1, 0], "coded": [3, 2, 2, 0]}
    found = normalised(merged, own, {"plain": "accuracy", "coded": "f1"})
    assert found == pytest.approx((0.5 / 0.75 + (2 / 4) / (4 / 5)) / 2)
    assert normalised({"plain": merged["plain"]}, {"plain": own["plain"]}) == pytest.approx(0.5 / 0.75)
    assert accuracy(own["plain"]) == 0.75
