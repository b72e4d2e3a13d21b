from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.evaluation import METRICS, compute_metrics, text_scores
from mats.evaluation.resampled import resampled_class_metric, resampled_number_metric

CLASS_NAMES = ("accuracy", "f1", "f1_macro", "matthews_correlation", "accuracy_f1")
NUMBER_NAMES = ("pearson", "spearman", "pearson_spearman")
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


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_f1_of_class_1_equals_scikit_learn(answers: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, gold = (list(column) for column in zip(*answers, strict=True))
    values = compute_metrics(("f1", "accuracy_f1"), torch.tensor(predictions), torch.tensor(gold), 2)
    f1 = metrics.f1_score(gold, predictions, zero_division=0)
    assert values["f1"] == pytest.approx(f1, abs=1e-6)
    assert values["accuracy_f1"] == pytest.approx((f1 + metrics.accuracy_score(gold, predictions)) / 2, abs=1e-6)


def test_f1_is_of_class_1_not_0() -> None:
    """The negative control: exchanging the classes changes it."""
    predictions, gold = torch.tensor([1, 1, 0, 0, 0]), torch.tensor([1, 0, 0, 0, 0])
    assert compute_metrics(("f1",), predictions, gold, 2)["f1"] == pytest.approx(2 / 3)
    assert compute_metrics(("f1",), 1 - predictions, 1 - gold, 2)["f1"] == pytest.approx(6 / 7)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-9, 9)), min_size=3, max_size=30))
def test_correlations_equal_scipy(pairs: list[tuple[int, int]]) -> None:
    from scipy import stats

    predictions, gold = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    values = compute_metrics(NUMBER_NAMES, torch.tensor(predictions), torch.tensor(gold), 0)
    if len(set(predictions)) == 1 or len(set(gold)) == 1:
        assert values == dict.fromkeys(NUMBER_NAMES, 0.0)
        return
    pearson, spearman = stats.pearsonr(predictions, gold).statistic, stats.spearmanr(predictions, gold).statistic
    assert values["pearson"] == pytest.approx(pearson, abs=1e-9)
    assert values["spearman"] == pytest.approx(spearman, abs=1e-9)
    assert values["pearson_spearman"] == pytest.approx((pearson + spearman) / 2, abs=1e-9)


def test_pearson_and_spearman_differ() -> None:
    values = compute_metrics(NUMBER_NAMES, torch.tensor([1.0, 2.0, 3.0, 100.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]), 0)
    assert values["spearman"] == pytest.approx(1.0)
    assert values["pearson"] < 0.9


@pytest.mark.parametrize("name", [*CLASS_NAMES, *NUMBER_NAMES])
def test_many_resamples_at_once_equal_one_by_one(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions, gold = (torch.randint(0, 4, (25, 12), generator=generator) for _ in range(2))
    predictions[0], gold[1] = 2, 1  # constant, as a resample may be
    if name in NUMBER_NAMES:
        values = resampled_number_metric(name, predictions.double(), gold.double())
        predictions, gold = predictions.double(), gold.double()
    else:
        values = resampled_class_metric(name, predictions, gold, 4)
    alone = [compute_metrics((name,), p, g, 4)[name] for p, g in zip(predictions, gold, strict=True)]
    assert values.tolist() == pytest.approx(alone, abs=1e-6)
    assert len(set(alone)) > 5


def test_every_metric_of_a_dataset_file_is_computed() -> None:
    from typing import get_args

    from mats.data.metric_names import ClassMetric, RegressionMetric, TextMetric

    assert get_args(ClassMetric) == CLASS_NAMES
    assert get_args(RegressionMetric) == NUMBER_NAMES
    scores = text_scores(get_args(TextMetric), "The answer is 3", ["3"])
    assert set(METRICS) == {*CLASS_NAMES, *NUMBER_NAMES, *scores, "perplexity"}
