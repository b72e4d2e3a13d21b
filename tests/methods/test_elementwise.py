"""Average and task arithmetic against their formulas in float64, and what all elementwise methods share."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError, ShapeMismatch
from mats.methods import (
    AverageSettings,
    BaseSettings,
    FisherSettings,
    TaskArithmeticSettings,
    TiesSettings,
    elementwise,
)
from mats.progress import Silent

weights = st.lists(st.floats(0.1, 10), min_size=1, max_size=5)


def tensors(count, *, seed=0, shape=(5, 3), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def merge(settings, base, models, model_weights=None):
    method = elementwise(settings, model_weights or [1.0] * len(models))
    assert method.deferred() == ()
    return method.merge("w", None if base is None else base.clone(), (model.clone() for model in models))


@given(weights, st.integers(0, 1000))
def test_average_is_the_weighted_mean(model_weights, seed):
    models = tensors(len(model_weights), seed=seed)
    expected = sum(w * m.double() for w, m in zip(model_weights, models, strict=True)) / sum(model_weights)
    assert torch.allclose(merge(AverageSettings(), None, models, model_weights).double(), expected, atol=1e-6)


@given(st.floats(0.01, 100), st.permutations(range(4)))
def test_average_ignores_the_scale_of_weights_and_the_order_of_models(factor, order):
    models, model_weights = tensors(4), [1.0, 2.0, 3.0, 0.5]
    plain = merge(AverageSettings(), None, models, model_weights)
    changed = merge(AverageSettings(), None, [models[i] for i in order], [factor * model_weights[i] for i in order])
    assert torch.allclose(plain, changed, atol=1e-6)
    assert not torch.allclose(plain, merge(AverageSettings(), None, models), atol=1e-2)  # the weights do count


@given(weights, st.floats(-2, 2), st.integers(0, 1000))
def test_task_arithmetic_adds_scaled_task_vectors(model_weights, scale, seed):
    base, *models = tensors(len(model_weights) + 1, seed=seed)
    base64 = base.double()
    change = sum(w * (m.double() - base64) for w, m in zip(model_weights, models, strict=True))
    merged = merge(TaskArithmeticSettings(scale=scale), base, models, model_weights)
    assert torch.allclose(merged.double(), base64 + scale * change, atol=2e-4)


def test_one_model_at_full_scale_gives_that_model(device):
    base, model = (tensor.to(device) for tensor in tensors(2))
    for settings in (
        AverageSettings(),
        TaskArithmeticSettings(scale=1.0),
        TiesSettings(density=1.0, trim_scope="tensor"),
    ):
        assert torch.allclose(merge(settings, base, [model]), model, atol=1e-6)


def test_a_negative_weight_subtracts_a_task():
    base, model = tensors(2)
    merged = merge(TaskArithmeticSettings(scale=1.0), base, [model], [-1.0])
    assert torch.allclose(merged, 2 * base - model, atol=1e-6)


def test_half_precision_is_summed_in_fp32():
    """1024 models, each 1 + one bf16 step: in bf16 the sum would stall at 256."""
    model = torch.tensor([1.0078125], dtype=torch.bfloat16)
    merged = merge(AverageSettings(), None, [model] * 1024)
    assert merged.dtype == torch.float32
    assert merged.item() == pytest.approx(1.0078125, abs=1e-5)
    double = tensors(2, dtype=torch.float64)
    assert merge(AverageSettings(), None, double).dtype == torch.float64
    assert merge(TaskArithmeticSettings(), double[0], double).dtype == torch.float64


@pytest.mark.parametrize(
    "settings", [AverageSettings(), TaskArithmeticSettings(), TiesSettings(trim_scope="tensor"), BaseSettings()]
)
def test_what_is_not_floating_point_is_the_bases(settings):
    base, other = torch.arange(6), torch.arange(6) * 7
    assert torch.equal(merge(settings, base, [other, other]), base)
    mask = torch.tensor([True, False])
    assert torch.equal(merge(settings, mask, [~mask]), mask)


def test_average_without_a_base_takes_integers_from_the_first_model():
    assert torch.equal(merge(AverageSettings(), None, [torch.arange(3), torch.arange(3) + 1]), torch.arange(3))


def test_base_reads_no_model():
    def explode():
        raise AssertionError("a model was read")
        yield

    base = tensors(1)[0]
    assert torch.equal(elementwise(BaseSettings(), [1.0]).merge("w", base, explode()), base)


@pytest.mark.parametrize("settings", [AverageSettings(), TaskArithmeticSettings(), TiesSettings(density=0.5)])
def test_no_two_models_are_held_at_once(settings):
    base, *models = tensors(6)
    method = elementwise(settings, [1.0] * 5)
    method.prepare(lambda i, _: models[i].clone(), lambda _: base.clone(), ["w"], Silent())
    alive: list[weakref.ref[torch.Tensor]] = []

    def stream():
        for model in models:
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 1  # the one the average accumulates in
            tensor = model.clone()
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    method.merge("w", base.clone(), stream())


@pytest.mark.parametrize("settings", [AverageSettings(), TaskArithmeticSettings(), TiesSettings(trim_scope="tensor")])
def test_shapes_and_counts_are_checked(settings):
    base, *models = tensors(3)
    with pytest.raises(ShapeMismatch, match=r"w: model 1 has shape \(2, 2\), expected \(5, 3\)"):
        merge(settings, base, [models[0], torch.ones(2, 2)])
    with pytest.raises(ShapeMismatch, match=r"w: 1 tensors given for 2 models"):
        merge(settings, base, models[:1], [1.0, 1.0])
    with pytest.raises(ShapeMismatch, match=r"w: more tensors given than the 1 models"):
        merge(settings, base, models, [1.0])
    with pytest.raises(ShapeMismatch, match=r"w: 0 tensors given for 1 models"):
        merge(settings, base, [], [1.0])


def test_requests_that_cannot_be_met():
    with pytest.raises(RequestError, match=r"average: the models' weights \[1.0, -1.0\] sum to 0"):
        elementwise(AverageSettings(), [1, -1])
    with pytest.raises(RequestError, match="'fisher' does not work entry by entry"):
        elementwise(FisherSettings(), [1.0])
    with pytest.raises(RequestError, match="0 models given"):
        elementwise(AverageSettings(), [])
    with pytest.raises(RequestError, match=r"task_arithmetic: w: .* none is given"):
        merge(TaskArithmeticSettings(), None, tensors(1))
