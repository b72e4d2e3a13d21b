"""Sums of LoRA adapters as others compute them: factor by factor, under the names they are published under.

None of these is a sum of updates. With A* = Σ a_i A_i and B* = Σ b_i B_i the product has cross terms:

    s B* A* = s Σ_i b_i a_i B_i A_i  +  s Σ_{i≠j} b_i a_j B_i A_j

and even where these vanish, the coefficient of the i-th update is b_i a_i, not κ_i. `low_rank.relative_difference`
measures how far each result is from Σ κ_i s_i B_i A_i.

    word                    a_i                  b_i            source
    factorwise              κ_i                  κ_i            PEM (arXiv 2306.14870), addition, κ_i ≥ 0
      … negate A            κ_i                  |κ_i|          one adapter: (κ A, B), scaled once, as its gpt2_scale.py
      … negate B            |κ_i|                κ_i            one adapter: (A, κ B), as its negation.py
    analogy                 |κ_i|                κ_i            PEM, a + b − c with κ = (w0, w1, −w1)
    alpaca                  (1 + c, −c)          (1 + c, c)     PEM, Alpaca-LoRA, κ = (1, −c)
    linear_only_negate_b    |κ_i|                κ_i            AdapterHub's `lora_linear_only_negate_b`
    peft_linear             sgn(κ_i s_i) √|κ_i s_i|   √|κ_i s_i|   PEFT's `add_weighted_adapter`, `linear`; s = 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mats.errors import InputsMismatch, RequestError
from mats.methods.low_rank import LowRank

FactorForm = Literal["factorwise", "analogy", "alpaca", "linear_only_negate_b", "peft_linear"]
"""The published sums, factor by factor."""

Factor = Literal["A", "B"]


def factor_weights(
    form: FactorForm, coefficients: Sequence[float], scalings: Sequence[float], negate: Factor | None = None
) -> tuple[list[float], list[float]]:
    """The weights (a_i, b_i) of the two factors; see the table above.

    Raises:
        RequestError: a form that takes other numbers or signs of adapters, told with what it would take.
    """
    sizes = [abs(factor) for factor in coefficients]
    if form == "factorwise":
        return _factorwise(coefficients, negate)
    if form == "peft_linear":
        products = [factor * scaling for factor, scaling in zip(coefficients, scalings, strict=True)]
        roots = [math.sqrt(abs(product)) for product in products]
        return [math.copysign(root, product) for root, product in zip(roots, products, strict=True)], roots
    if form == "alpaca":
        c = -coefficients[-1]
        if len(coefficients) != 2 or coefficients[0] != 1 or c <= 0:
            raise RequestError(
                f"adapters.combine: alpaca takes two adapters with coefficients 1 and −c, received "
                f"{_listed(coefficients)}; exact takes any"
            )
        return [1 + c, -c], [1 + c, c]
    if form == "analogy" and not (len(coefficients) == 3 and coefficients[1] == -coefficients[2] > 0):
        raise RequestError(
            f"adapters.combine: analogy (a + b − c) takes three adapters with coefficients w0, w1 and −w1, received "
            f"{_listed(coefficients)}; exact takes any"
        )
    return sizes, list(coefficients)


def _factorwise(coefficients: Sequence[float], negate: Factor | None) -> tuple[list[float], list[float]]:
    signed = list(coefficients)
    if negate is None:
        if any(factor < 0 for factor in coefficients):
            raise RequestError(
                f"adapters.combine: factorwise with coefficients {_listed(coefficients)} would flip both factors, and "
                "(−B)(−A) = B A; negate: B (or A) flips one, combine: exact subtracts the update"
            )
        return signed, signed
    sizes = [1.0] if len(coefficients) == 1 else [abs(factor) for factor in coefficients]
    return (signed, sizes) if negate == "A" else (sizes, signed)


def check_factors(form: FactorForm, factors: Sequence[tuple[int, float]]) -> None:
    """Whether factors of these ranks and scalings can be added entry by entry.

    Raises:
        InputsMismatch: the ranks differ; or the scalings do, which peft_linear alone folds into the factors.
    """
    rank, scaling = factors[0]
    for other_rank, other_scaling in factors[1:]:
        if other_rank != rank:
            raise InputsMismatch(
                f"adapters.combine: {form} adds factors entry by entry, and adapters have ranks {rank} and "
                f"{other_rank}; exact or svd would be right"
            )
        if form != "peft_linear" and other_scaling != scaling:
            raise InputsMismatch(
                f"adapters.combine: {form} has one scaling for all, and adapters have {scaling:g} and "
                f"{other_scaling:g}; exact or svd would be right"
            )


def factor_sum(
    form: FactorForm, updates: Sequence[LowRank], coefficients: Sequence[float], negate: Factor | None = None
) -> LowRank:
    """A* = Σ a_i A_i and B* = Σ b_i B_i.

    Args:
        form: the published form.
        updates: of one shape and one rank; except for peft_linear, of one scaling.
        coefficients: κ_i.
        negate: factorwise alone: which factor takes the signs.

    Raises:
        InputsMismatch: as `check_factors`.
        RequestError: as `factor_weights`.
    """
    check_factors(form, [(update.rank, update.scaling) for update in updates])
    on_A, on_B = factor_weights(form, coefficients, [update.scaling for update in updates], negate)
    A = _weighted(on_A, [each.A for each in updates])
    B = _weighted(on_B, [each.B for each in updates])
    return LowRank(A, B, 1.0 if form == "peft_linear" else updates[0].scaling)


def _weighted(weights: Sequence[float], matrices: Sequence[Tensor]) -> Tensor:
    """Σ w_i M_i in fp32 or better."""
    total = torch.zeros_like(matrices[0], dtype=torch.promote_types(matrices[0].dtype, torch.float32))
    for weight, matrix in zip(weights, matrices, strict=True):
        total.add_(matrix, alpha=weight)
    return total


def _listed(coefficients: Sequence[float]) -> str:
    return ", ".join(f"{factor:g}" for factor in coefficients)
