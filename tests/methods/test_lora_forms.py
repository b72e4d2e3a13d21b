"""Published factor-wise sums: hand-worked values, PEFT's own code, and the cosines of PEM's choice of factor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mats.errors import InputsMismatch, RequestError
from mats.methods.lora_forms import FactorForm, factor_sum
from mats.methods.low_rank import LowRank, cosine, exact_sum, relative_difference

SHAPE = (64, 48)


def draw(seed: int, rank: int = 4, scaling: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, SHAPE[1], generator=generator)
    return LowRank(A, torch.randn(SHAPE[0], rank, generator=generator), scaling)


def near(update: LowRank, drift: float, seed: int) -> Tensor:
    """The A of a module trained from the same start."""
    noise = torch.randn(update.A.shape, generator=torch.Generator().manual_seed(seed))
    return update.A + drift * noise


@pytest.mark.parametrize(("drift", "with_B", "with_A"), [(0.0, 1.0, 0.0), (0.1, 0.997, 0.06)])
def test_which_factor_is_flipped_matters(drift: float, with_B: float, with_A: float) -> None:
    """PEM 2.1: B1 A1 − B2 A2 by flipping B has cosine 1.00 / 0.997, by flipping A 0.00 / 0.06."""
    first = draw(0)
    found: dict[str, list[float]] = {"A": [], "B": []}
    for seed in range(20):
        updates = [
            LowRank(near(first, drift, 100 + seed), draw(seed).B),
            LowRank(near(first, drift, 200 + seed), draw(50 + seed).B),
        ]
        exact = exact_sum(updates, [1.0, -1.0], SHAPE)
        for factor in ("A", "B"):
            merged = factor_sum("factorwise", updates, [1.0, -1.0], factor)  # type: ignore[arg-type]
            found[factor].append(cosine(merged, exact) or 0.0)
    assert torch.tensor(found["B"]).mean() == pytest.approx(with_B, abs=0.01)
    assert torch.tensor(found["A"]).abs().mean() == pytest.approx(with_A, abs=0.06)


def test_flipping_B_of_one_shared_A_is_the_right_direction_twice_too_large() -> None:
    first, second = draw(0), draw(1)
    updates = [first, LowRank(first.A, second.B)]
    exact = exact_sum(updates, [1.0, -1.0], SHAPE)
    merged = factor_sum("linear_only_negate_b", updates, [1.0, -1.0])
    torch.testing.assert_close(merged.dense(), 2 * exact.dense(), rtol=1e-5, atol=1e-5)


def test_factorwise_sums_have_cross_terms() -> None:
    """Σ_ij w_i w_j B_i A_j, written out; on unrelated modules far from the sum, on identical ones the module."""
    updates, weights = [draw(0, scaling=0.5), draw(1, scaling=0.5)], [0.25, 0.75]
    merged = factor_sum("factorwise", updates, weights)
    written = sum(
        0.5 * v * w * (left.B.double() @ right.A.double())
        for v, left in zip(weights, updates, strict=True)
        for w, right in zip(weights, updates, strict=True)
    )
    torch.testing.assert_close(merged.dense(), written, rtol=1e-5, atol=1e-5)
    assert relative_difference(merged, exact_sum(updates, weights, SHAPE)) > 0.4
    same = factor_sum("factorwise", [updates[0], updates[0]], weights)
    torch.testing.assert_close(same.dense(), updates[0].dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_one_adapter_is_negated_once_scaled(factor: str) -> None:
    update = draw(0, scaling=2.0)
    merged = factor_sum("factorwise", [update], [-0.7], factor)  # type: ignore[arg-type]
    torch.testing.assert_close(merged.dense(), -0.7 * update.dense(), rtol=1e-6, atol=1e-6)
    again = factor_sum("factorwise", [factor_sum("factorwise", [update], [-1.0], factor)], [-1.0], factor)  # type: ignore[arg-type]
    assert torch.equal(again.A, update.A)
    assert torch.equal(again.B, update.B)


def test_alpaca_adds_what_it_means_to_subtract() -> None:
    """A1 − c·dA and (1 + 2c) B1 + c·dB for a module continued from the first."""
    good, c = draw(0), 0.3
    dA, dB = 0.1 * draw(1).A, 0.1 * draw(2).B
    merged = factor_sum("alpaca", [good, LowRank(good.A + dA, good.B + dB)], [1.0, -c])
    torch.testing.assert_close(merged.A, good.A - c * dA, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.B, (1 + 2 * c) * good.B + c * dB, rtol=1e-5, atol=1e-5)


def test_analogy_is_pem_s() -> None:
    a, b, c = (draw(seed) for seed in range(3))
    merged = factor_sum("analogy", [a, b, c], [0.9, 0.1, -0.1])
    torch.testing.assert_close(merged.A, 0.9 * a.A + 0.1 * b.A + 0.1 * c.A)
    torch.testing.assert_close(merged.B, 0.9 * a.B + 0.1 * b.B - 0.1 * c.B)


@pytest.mark.parametrize("weights", [(0.4, 0.6), (1.0, 0.0), (2.0, 0.5)])
def test_peft_linear_is_that_of_peft(weights: tuple[float, float]) -> None:
    """Against `add_weighted_adapter`, α ≠ r; with a negative weight PEFT puts the sign on one factor, as here."""
    merged, updates, state = by_peft(weights)
    torch.testing.assert_close(merged.A, state["A"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged.B, state["B"], rtol=1e-5, atol=1e-6)
    if weights == (1.0, 0.0):
        torch.testing.assert_close(merged.dense(), updates[0].dense(), rtol=1e-5, atol=1e-6)


def test_peft_linear_with_a_negative_weight_subtracts_the_product() -> None:
    merged, _, state = by_peft((1.0, -0.5))
    torch.testing.assert_close(merged.dense(), (state["B"] @ state["A"]).double(), rtol=1e-4, atol=1e-5)


def by_peft(weights: tuple[float, float]) -> tuple[LowRank, list[LowRank], dict[str, Tensor]]:
    from peft import LoraConfig, get_peft_model

    updates = [draw(0, scaling=2.0), draw(1, scaling=2.0)]
    model = torch.nn.Sequential(torch.nn.Linear(SHAPE[1], SHAPE[0]))
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["0"]), adapter_name="a0")
    wrapped.add_adapter("a1", LoraConfig(r=4, lora_alpha=8, target_modules=["0"]))
    layer = wrapped.base_model.model[0]
    for number, update in enumerate(updates):
        layer.lora_A[f"a{number}"].weight.data = update.A.clone()
        layer.lora_B[f"a{number}"].weight.data = update.B.clone()
    wrapped.add_weighted_adapter(["a0", "a1"], list(weights), "merged", combination_type="linear")
    assert layer.scaling["merged"] == 1.0
    state = {"A": layer.lora_A["merged"].weight.data, "B": layer.lora_B["merged"].weight.data}
    return factor_sum("peft_linear", updates, list(weights)), updates, state


@pytest.mark.parametrize(
    ("form", "weights", "message"),
    [
        ("factorwise", [1.0, -1.0], r"would flip both factors.*combine: exact subtracts"),
        ("analogy", [1.0, 0.5], r"takes three adapters with coefficients w0, w1 and −w1, received 1, 0\.5"),
        ("analogy", [1.0, 0.5, 0.5], r"received 1, 0\.5, 0\.5"),
        ("alpaca", [0.9, -0.3], r"coefficients 1 and −c, received 0\.9, -0\.3"),
        ("alpaca", [1.0, 0.3], r"coefficients 1 and −c"),
    ],
)
def test_forms_refuse_what_they_do_not_mean(form: FactorForm, weights: list[float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        factor_sum(form, [draw(seed) for seed in range(len(weights))], weights)


def test_different_ranks_and_scalings_are_refused() -> None:
    with pytest.raises(InputsMismatch, match=r"ranks 4 and 2;.*exact or svd"):
        factor_sum("factorwise", [draw(0), draw(1, rank=2)], [1.0, 1.0])
    with pytest.raises(InputsMismatch, match=r"one scaling for all, and adapters have 1 and 0\.5"):
        factor_sum("linear_only_negate_b", [draw(0), draw(1, scaling=0.5)], [1.0, 1.0])
    merged = factor_sum("peft_linear", [draw(0), draw(0, scaling=0.25)], [1.0, 1.0])
    torch.testing.assert_close(merged.A, (1 + math.sqrt(0.25)) * draw(0).A)
