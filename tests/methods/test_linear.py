"""`linear`: Σ w_i θ_i against float64, with weights of any sign, normalised or not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError, ShapeMismatch
from mats.methods import AverageSettings, LinearSettings, elementwise, parse_method

weights = st.lists(st.floats(-3, 3), min_size=1, max_size=5)


def tensors(count, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator).to(dtype) for _ in range(count)]


def merge(settings, models, model_weights, base=None):
    made = elementwise(settings, model_weights)
    return made.merge("w", base, (model.clone() for model in models))


@given(weights, st.integers(0, 1000))
def test_the_sum_of_models_times_their_weights(model_weights, seed):
    models = tensors(len(model_weights), seed=seed)
    expected = sum(w * m.double() for w, m in zip(model_weights, models, strict=True))
    merged = merge(LinearSettings(), models, model_weights)
    assert torch.allclose(merged.double(), expected, atol=5e-6)
    if abs(sum(model_weights)) > 1e-2:
        normalised = merge(LinearSettings(normalize=True), models, model_weights)
        assert torch.allclose(normalised.double(), expected / sum(model_weights), atol=1e-3, rtol=1e-4)


def test_normalised_weights_above_zero_are_the_average():
    models, model_weights = tensors(3), [1.0, 2.0, 0.5]
    average = merge(AverageSettings(), models, model_weights)
    assert torch.equal(merge(LinearSettings(normalize=True), models, model_weights), average)
    assert not torch.allclose(merge(LinearSettings(), models, model_weights), average, atol=1e-2)


def test_weights_may_be_negative_and_zero():
    first, second, third = tensors(3)
    merged = merge(LinearSettings(), [first, second, third], [2.0, -1.0, 0.0])
    assert torch.allclose(merged, 2 * first - second, atol=1e-6)


def test_half_precision_is_summed_in_fp32():
    """1 + 0.003 + 0.003 in bf16, term by term, stays 1; summed once it is the next number above 1."""
    models = [torch.tensor([value], dtype=torch.bfloat16) for value in (1.0, 0.003, 0.003)]
    assert (models[0] + models[1] + models[2]).item() == 1.0
    merged = merge(LinearSettings(), models, [1.0, 1.0, 1.0])
    assert merged.dtype == torch.float32
    assert merged.to(torch.bfloat16).item() == 1.0078125


def test_what_is_not_floating_point_stays():
    ids = torch.arange(4)
    assert torch.equal(merge(LinearSettings(), [ids, 2 * ids], [0.5, 0.2]), ids)
    assert torch.equal(merge(LinearSettings(), [2 * ids], [0.5], base=ids), ids)


def test_refused():
    with pytest.raises(RequestError, match=r"linear: normalize: the models' weights \[1.0, -1.0\] sum to 0; another"):
        elementwise(LinearSettings(normalize=True), [1, -1])
    merge(LinearSettings(), tensors(2), [1, -1])
    with pytest.raises(RequestError, match="normalize"):
        parse_method({"method": "linear", "normalize": "perhaps"})
    with pytest.raises(ShapeMismatch, match=r"model 1 has shape \(2,\), expected \(3,\)"):
        merge(LinearSettings(), [torch.ones(3), torch.ones(2)], [1.0, 1.0])


@pytest.mark.parametrize(("weight", "fault"), [(0.0, None), (-2.0, None), (float("nan"), "a finite number")])
def test_every_finite_weight_is_taken(weight, fault):
    assert (LinearSettings().weight_fault(weight) or "").startswith(fault or "")
    assert (LinearSettings().weight_fault(weight) is None) == (fault is None)
