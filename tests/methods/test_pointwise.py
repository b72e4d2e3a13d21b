"""Mean, sum, median and largest of the weights themselves, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.errors import RequestError, ShapeMismatch
from mats.methods import AverageSettings, PointwiseSettings, elementwise

WORDS = ("mean", "sum", "median", "magnitude")


def merged(word, models, weights=None, base=None):
    made = elementwise(PointwiseSettings(aggregate=word), weights or [1.0] * len(models))
    return made.merge("w", base, (torch.as_tensor(model).clone() for model in models))


def expected(word, models):
    """By definition; of two middles the lower, of equal magnitudes the first."""
    rows = np.stack(models)
    if word == "median":
        return np.sort(rows, axis=0)[(len(rows) - 1) // 2]
    if word == "magnitude":
        return np.take_along_axis(rows, np.abs(rows).argmax(0)[None], 0)[0]
    return rows.mean(0) if word == "mean" else rows.sum(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(WORDS), st.booleans())
def test_values_are_numpys(seed, count, word, tied):
    generator = np.random.default_rng(seed)
    models = [
        generator.integers(-2, 3, (5, 7)).astype(float) if tied else generator.standard_normal((5, 7))
        for _ in range(count)
    ]
    np.testing.assert_allclose(merged(word, models), expected(word, models), atol=1e-12)


def test_the_words_differ():
    models = [np.random.default_rng(seed).standard_normal((4, 4)) for seed in range(4)]
    found = [np.asarray(merged(word, models)) for word in WORDS]
    assert min(np.abs(found[i] - found[j]).max() for i in range(4) for j in range(i)) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_summed_in_fp32(dtype):
    models = [torch.randn(64, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(5)]
    for word in WORDS:
        result = merged(word, models)
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result, expected(word, [model.double().numpy() for model in models]), atol=1e-6)


def test_weights_count_where_they_mean_something():
    models = [np.random.default_rng(seed).standard_normal(9) for seed in range(3)]
    weights = [1.0, -0.5, 2.0]
    np.testing.assert_allclose(merged("sum", models, weights), np.tensordot(weights, models, 1))
    average = elementwise(AverageSettings(), weights).merge(
        "w", None, (torch.from_numpy(model.copy()) for model in models)
    )
    np.testing.assert_allclose(merged("mean", models, weights), average)
    for word in ("median", "magnitude"):
        np.testing.assert_allclose(merged(word, models, [2.0] * 3), expected(word, models))
        with pytest.raises(RequestError, match=rf"aggregate {word} .* equal weights would be right"):
            merged(word, models, weights)
    with pytest.raises(RequestError, match="sum to 0"):
        merged("mean", models, [1.0, 1.0, -2.0])


def test_what_is_not_merged_comes_from_the_base_or_the_first():
    counts = [torch.arange(3), torch.arange(3) + 5]
    assert torch.equal(merged("sum", counts), counts[0])
    assert torch.equal(merged("sum", counts, base=torch.tensor([9])), torch.tensor([9]))
    with pytest.raises(ShapeMismatch, match=r"w: model 1 has shape \(2,\), expected \(3,\)"):
        merged("median", [torch.zeros(3), torch.zeros(2)])
