"""Bootstrap intervals against the distribution they sample, and against SciPy's with scikit-learn's metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mats.errors import InputsMismatch, RequestError
from mats.evaluation import bootstrap_interval, paired_difference
from mats.evaluation.intervals import median_difference, median_interval


def of_classes(predicted: Any, gold: Any) -> list[dict[str, Any]]:
    return [
        {"example_id": f"test:{row}", "prediction": int(p), "gold": int(g)}
        for row, (p, g) in enumerate(zip(predicted, gold, strict=True))
    ]


def some_classes(seed: int, count: int = 60, right: float = 0.7) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    gold = np.random.default_rng(0).integers(0, 3, count)
    return of_classes(np.where(generator.random(count) < right, gold, generator.integers(0, 3, count)), gold)


def test_accuracy_is_resampled_binomially() -> None:
    """N·accuracy of a resample is Binomial(N, accuracy): the ends are its quantiles, up to a sampling error."""
    predictions = of_classes([1] * 80 + [0] * 20, [1] * 100)
    interval = bootstrap_interval("accuracy", predictions, resamples=20_000)
    assert interval is not None
    low, high = stats.binom.ppf([0.025, 0.975], 100, 0.8) / 100
    assert interval.low == pytest.approx(low, abs=0.011)
    assert interval.high == pytest.approx(high, abs=0.011)


def test_perplexity_and_texts_are_resampled_too() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random(200)
    texts = [{"example_id": str(row), "scores": {"squad_f1": score}} for row, score in enumerate(scores)]
    interval = bootstrap_interval("squad_f1", texts, resamples=4000)
    assert interval is not None
    spread = scores.std() / np.sqrt(200)  # a mean's resamples are normal, nearly
    assert interval.low == pytest.approx(scores.mean() - 1.96 * spread, abs=0.1 * spread)
    assert interval.high == pytest.approx(scores.mean() + 1.96 * spread, abs=0.1 * spread)
    windows = [{"example_id": str(r), "log_likelihood": -2.0 * (3 + r % 2), "tokens": 3 + r % 2} for r in range(50)]
    constant = bootstrap_interval("perplexity", windows)
    assert constant is not None
    assert constant.as_json() == pytest.approx([np.exp(2), np.exp(2)])  # by tokens: a mean of means would vary too


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["f1_macro", "matthews_correlation", "pearson", "spearman"])
def test_equals_scipy_with_scikit_learn(name: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    functions = {
        "f1_macro": lambda p, g: metrics.f1_score(g, p, average="macro"),
        "matthews_correlation": lambda p, g: metrics.matthews_corrcoef(g, p),
        "pearson": lambda p, g: stats.pearsonr(p, g).statistic,
        "spearman": lambda p, g: stats.spearmanr(p, g).statistic,
    }
    predictions = some_classes(3)
    p, g = (np.array([entry[column] for entry in predictions]) for column in ("prediction", "gold"))
    theirs = stats.bootstrap(
        (np.arange(len(p)),),
        lambda index: functions[name](p[index], g[index]),
        n_resamples=300,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(7),
        batch=300,
    ).confidence_interval
    ours = bootstrap_interval(name, predictions, resamples=300, seed=7)
    assert ours is not None
    assert ours.as_json() == pytest.approx([theirs.low, theirs.high], abs=1e-6)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    """The negative control: other examples for each model would hide the difference that the same ones show."""
    first = some_classes(4, 300, 0.6)
    second = [dict(entry) for entry in first]
    for entry in [entry for entry in second if entry["prediction"] != entry["gold"]][:12]:
        entry["prediction"] = entry["gold"]
    found = paired_difference("accuracy", second, first)
    assert found.value == pytest.approx(12 / 300)
    assert found.interval is not None
    assert found.interval.low > 0
    alone = [bootstrap_interval("accuracy", predictions) for predictions in (first, second)]
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[1].low < alone[0].high  # unpaired, they overlap
    opposite = paired_difference("accuracy", first, second)
    assert opposite.value == -found.value
    assert opposite.interval is not None
    assert opposite.interval.as_json() == pytest.approx([-found.interval.high, -found.interval.low])


def test_equal_models_do_not_differ() -> None:
    first = some_classes(5)
    found = paired_difference("f1_macro", first, [dict(entry) for entry in first])
    assert (found.value, found.interval.as_json() if found.interval else None) == (0.0, [0.0, 0.0])


def test_a_median_takes_the_same_examples_under_every_template() -> None:
    """Three templates with one and the same outcome have the interval of one; independent resamples would have less."""
    one = some_classes(6)
    assert median_interval("accuracy", [one, one, one]) == bootstrap_interval("accuracy", one)
    others = [some_classes(seed) for seed in (6, 7, 8)]
    assert median_interval("accuracy", others) != bootstrap_interval("accuracy", one)
    values = [np.mean([e["prediction"] == e["gold"] for e in predictions]) for predictions in others]
    assert median_difference("accuracy", others, [one]).value == pytest.approx(np.median(values) - values[0])


def test_seeds_and_confidence() -> None:
    predictions = some_classes(9)
    assert bootstrap_interval("accuracy", predictions) == bootstrap_interval("accuracy", predictions)
    assert bootstrap_interval("accuracy", predictions, seed=1) != bootstrap_interval("accuracy", predictions)
    assert bootstrap_interval("accuracy", predictions[:1]) is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        right = np.random.default_rng(seed).random(80) < 0.75
        interval = bootstrap_interval("accuracy", of_classes(right, np.ones(80)), resamples=200, seed=seed)
        assert interval is not None
        covered += interval.low <= 0.75 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99  # the percentile bootstrap is a little short for few examples


def test_what_cannot_be_compared_is_refused() -> None:
    first = some_classes(1)
    with pytest.raises(InputsMismatch, match=r"different examples \(60 against 59 of them\)"):
        paired_difference("accuracy", first, first[:-1])
    with pytest.raises(InputsMismatch, match="from example test:0 on"):
        paired_difference("accuracy", first, first[::-1])
    with pytest.raises(RequestError, match="metric 'acc' is unknown"):
        bootstrap_interval("acc", first)
