from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.evaluation import compute_metrics

ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None, max_examples=40)
@given(ANSWERS)
def test_metrics_equal_scikit_learn(answers: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, gold = (list(column) for column in zip(*answers, strict=True))
    names = ("accuracy", "f1_macro", "matthews_correlation")
    values = compute_metrics(names, torch.tensor(predictions), torch.tensor(gold), 4)
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predictions), abs=1e-6)
    assert values["f1_macro"] == pytest.approx(metrics.f1_score(gold, predictions, average="macro"), abs=1e-6)
    assert values["matthews_correlation"] == pytest.approx(metrics.matthews_corrcoef(gold, predictions), abs=1e-6)


def test_always_the_majority_class_has_no_correlation() -> None:
    values = compute_metrics(("matthews_correlation",), torch.ones(4, dtype=torch.int64), torch.tensor([1, 1, 1, 0]), 2)
    assert values == {"matthews_correlation": 0.0}
