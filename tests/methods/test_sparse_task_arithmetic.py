"""Thinned task vectors, Model Stock and SCE on hand-worked numbers and by their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mats.errors import RequestError
from mats.methods import (
    LinearSettings,
    ModelStockSettings,
    SceSettings,
    SparseTaskArithmeticSettings,
    TaskArithmeticSettings,
    elementwise,
    parse_method,
)
from mats.methods.assigned import AssignedSettings


def merged(settings, weights, base, *changes):
    """The merge of models that differ from `base` by `changes`."""
    base = torch.as_tensor(base, dtype=torch.float64)
    models = [base + torch.as_tensor(change, dtype=torch.float64) for change in changes]
    return elementwise(settings, weights).merge("w", base.clone(), models) - base


def test_votes_are_weighted_and_zero_counts_as_positive():
    settings = SparseTaskArithmeticSettings(election=True)
    change = merged(settings, [1.0, 3.0], [0.0] * 4, [2.0, 3.0, 1.0, -2.0], [-1.0, -1.0, 1.0, -2.0])
    torch.testing.assert_close(change, torch.tensor([-3.0, 3.0, 4.0, -8.0], dtype=torch.float64))


def test_normalising_divides_by_the_weights_that_agree():
    settings = SparseTaskArithmeticSettings(election=True, normalize=True, scale=0.5)
    change = merged(settings, [1.0, 3.0], [0.0] * 4, [2.0, 3.0, 1.0, 0.0], [-1.0, -1.0, 1.0, 0.0])
    torch.testing.assert_close(change, torch.tensor([-0.5, 1.5, 0.5, 0.0], dtype=torch.float64))


def test_a_negative_weight_turns_the_vote():
    settings = SparseTaskArithmeticSettings(election=True)
    change = merged(settings, [1.0, -1.0], [0.0] * 2, [2.0, 2.0], [1.0, -1.0])
    torch.testing.assert_close(change, torch.tensor([2.0, 3.0], dtype=torch.float64))


def test_exactly_the_largest_are_kept_and_breadcrumbs_leave_out_the_very_largest():
    task_vector = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.5])
    largest = merged(SparseTaskArithmeticSettings(sparsify="magnitude", density=0.5), [1.0], [0.0] * 6, task_vector)
    assert largest.tolist() == [5.0, -4.0, 3.0, 0.0, 0.0, 0.0]
    middle = SparseTaskArithmeticSettings(sparsify="breadcrumbs", density=0.5, gamma=0.2)
    assert merged(middle, [1.0], [0.0] * 6, task_vector).tolist() == [0.0, -4.0, 3.0, -2.0, 0.0, 0.0]
    near_all = SparseTaskArithmeticSettings(sparsify="breadcrumbs", density=0.9, gamma=0.9)
    assert merged(near_all, [1.0], [0.0] * 6, task_vector).tolist() == [0.0, -4.0, 3.0, -2.0, 1.0, 0.5]


def test_rescaling_keeps_the_sum_of_magnitudes():
    settings = SparseTaskArithmeticSettings(sparsify="magnitude", density=0.5, rescale="norm")
    change = merged(settings, [1.0], [0.0] * 4, [4.0, -3.0, 2.0, 1.0])
    torch.testing.assert_close(change, torch.tensor([4.0, -3.0, 0.0, 0.0], dtype=torch.float64) * 10 / 7)


@pytest.mark.parametrize("sparsify", ["random", "della"])
def test_the_inverse_of_the_chance_keeps_the_expectation(sparsify):
    change = torch.rand(200, 50, dtype=torch.float64) + 0.5
    means = []
    for seed in range(5):
        settings = SparseTaskArithmeticSettings(sparsify=sparsify, density=0.4, rescale="inverse", seed=seed)
        means.append(float(merged(settings, [1.0], torch.zeros(200, 50), change).mean() / change.mean()))
    assert sum(means) / 5 == pytest.approx(1.0, abs=0.02)
    plain = SparseTaskArithmeticSettings(sparsify=sparsify, density=0.4)
    assert float(merged(plain, [1.0], torch.zeros(200, 50), change).mean() / change.mean()) < 0.6


def test_without_sparsification_it_is_task_arithmetic():
    base, changes = torch.randn(30), torch.randn(2, 30)
    ours = merged(SparseTaskArithmeticSettings(scale=0.7), [0.5, -1.0], base, *changes)
    torch.testing.assert_close(ours, merged(TaskArithmeticSettings(scale=0.7), [0.5, -1.0], base, *changes))


@given(st.permutations([0, 1, 2]))
def test_the_order_of_models_does_not_matter(order):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(40, generator=generator)
    changes = torch.randn(3, 40, generator=generator)
    weights, densities = [0.5, 1.0, 0.25], (0.3, 0.6, 0.9)
    results = []
    for places in ([0, 1, 2], order):
        settings = SparseTaskArithmeticSettings(
            sparsify="magnitude", election=True, density=tuple(densities[place] for place in places)
        )
        results.append(
            merged(settings, [weights[place] for place in places], base, *(changes[place] for place in places))
        )
    torch.testing.assert_close(*results)


def test_lists_must_have_a_number_for_each_model_and_rescalings_a_meaning():
    settings = SparseTaskArithmeticSettings(sparsify="magnitude", density=(0.1, 0.2))
    assert settings.models_fault(["a", "b", "c"]) == (
        "method sparse_task_arithmetic: density: 2 numbers for 3 models; one for each"
    )
    with pytest.raises(ValidationError, match="inverse belongs to sparsify: random and della"):
        SparseTaskArithmeticSettings(sparsify="magnitude", rescale="inverse")
    for key, value in {"density": 0.5, "rescale": "norm", "gamma": 0.1, "epsilon": 0.1, "seed": 1}.items():
        with pytest.raises(ValidationError, match=f"{key}: .* has no effect with sparsify: none; leave it out"):
            SparseTaskArithmeticSettings.model_validate({key: value})
    with pytest.raises(RequestError, match="density"):
        parse_method({"method": "sparse_task_arithmetic", "density": 1.5})


def test_model_stock_takes_the_mean_where_models_agree_and_the_base_where_they_cancel():
    settings = ModelStockSettings()
    same = merged(settings, [1.0, 1.0], [1.0, 1.0], [1.0, 2.0], [2.0, 4.0])
    torch.testing.assert_close(same, torch.tensor([1.5, 3.0], dtype=torch.float64))
    assert not merged(settings, [1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]).any()
    assert not merged(settings, [1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]).any()
    at_60_degrees = merged(settings, [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5])
    torch.testing.assert_close(at_60_degrees, 2 / 3 * torch.tensor([0.75, 0.75**0.5 / 2], dtype=torch.float64))


def test_sce_selects_weighs_and_erases():
    # Energies 4 and 16 of the changes; the third entry varies least and is dropped at top 2/3.
    change = merged(SceSettings(select_topk=0.67), [1.0, 1.0], [0.0] * 3, [2.0, 0.0, 1.0], [0.0, -4.0, 1.0])
    torch.testing.assert_close(change, torch.tensor([2.0, -4.0, 0.0], dtype=torch.float64))
    weighed = merged(SceSettings(), [1.0, 1.0], [0.0], [1.0], [3.0])
    torch.testing.assert_close(weighed, torch.tensor([0.1 * 1.0 + 0.9 * 3.0], dtype=torch.float64))


def test_assigned_settings_choose_models_and_weights():
    assigned = AssignedSettings(settings=LinearSettings(normalize=True), models=(2, 0), weights=(1.0, 3.0))
    assert assigned.models_read(["a", "b", "c"], [9.0] * 3) == (2, 0)
    assert not assigned.reads_base(["a", "b", "c"])
    merge = elementwise(assigned, [9.0] * 3, ["a", "b", "c"])
    torch.testing.assert_close(merge.merge("w", None, [torch.ones(2), torch.zeros(2)]), torch.full((2,), 0.25))
    with pytest.raises(RequestError, match="slerp: 1 models given"):
        elementwise(
            AssignedSettings(settings=parse_method("slerp"), models=(1,), weights=(1.0,)), [1.0, 1.0], ["a", "b"]
        )
