"""From the store's sums to C_i: the divisors, and the published off-diagonal scale. Pure functions of numbers.

A store holds sums: A_sum = Σ a aᵀ over the T_a real rows at a site, G_sum = Σ δ δᵀ over the T_g rows of a layer, both
over N examples. Four scalings make a curvature of them:

* `examples` (the K-FAC block): C = (1/N) · G_sum ⊗ (A_sum / T_a), a mean over examples; that is
  (T/N) · E[δδᵀ] ⊗ E[aaᵀ] with T rows, and A_sum · G_sum ÷ (N · T). An input Gram alone, a diagonal, a block: sums ÷ N.
* `tokens` (as published): A_sum / T_a and G_sum / T_g, each a mean over its own rows; the ratio T/N is dropped, and so
  models with long targets weigh less than by `examples`. A diagonal or block: sums ÷ N, as published too.
* `unit`: mean diagonal 1, whatever was measured.
* `balanced`: as `examples`; the one factor that then gives each model the same trace over the whole merge takes all of
  its layers, and comes with its weight λ_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mats.errors import RequestError

Scaling = Literal["examples", "tokens", "unit", "balanced"]

SCALINGS: tuple[Scaling, ...] = ("examples", "tokens", "unit", "balanced")


@dataclass(frozen=True)
class Scales:
    """What the two sums of a K-FAC block are multiplied by.

    Attributes:
        left: for G_sum.
        right: for A_sum.
    """

    left: float
    right: float


def kronecker_scales(
    scaling: Scaling,
    *,
    examples: float,
    input_rows: float,
    output_rows: float,
    input_mean_diagonal: float = math.nan,
    output_mean_diagonal: float = math.nan,
) -> Scales:
    """The factors for A_sum and G_sum.

    Args:
        scaling: which C_i.
        examples: N.
        input_rows: T_a, rows summed into A_sum.
        output_rows: T_g, rows summed into G_sum.
        input_mean_diagonal: tr A_sum ÷ in; read by `unit` alone.
        output_mean_diagonal: tr G_sum ÷ out; read by `unit` alone.

    Raises:
        RequestError: an unknown scaling, or a count that is not positive.
    """
    _check(scaling, examples=examples, input_rows=input_rows, output_rows=output_rows)
    if scaling in ("examples", "balanced"):
        return Scales(left=1.0 / examples, right=1.0 / input_rows)
    if scaling == "tokens":
        return Scales(left=1.0 / output_rows, right=1.0 / input_rows)
    return Scales(left=_reciprocal(output_mean_diagonal), right=_reciprocal(input_mean_diagonal))


def gram_scale(scaling: Scaling, *, examples: float, rows: float, mean_diagonal: float = math.nan) -> float:
    """The factor for an input Gram that stands alone (RegMean): 1/N, 1/T_a, or 1 ÷ mean diagonal.

    Args:
        scaling: which C_i.
        examples: N.
        rows: T_a.
        mean_diagonal: of the sum; read by `unit` alone.

    Raises:
        RequestError: an unknown scaling, or a count that is not positive.
    """
    _check(scaling, examples=examples, rows=rows)
    if scaling == "unit":
        return _reciprocal(mean_diagonal)
    return 1.0 / (rows if scaling == "tokens" else examples)


def example_scale(scaling: Scaling, *, examples: float, mean_diagonal: float = math.nan) -> float:
    """The factor for sums of per-example gradients (diagonal or block Fisher): 1/N, or 1 ÷ mean diagonal.

    Args:
        scaling: which C_i.
        examples: N.
        mean_diagonal: of the sum; read by `unit` alone.

    Raises:
        RequestError: an unknown scaling, or a count that is not positive.
    """
    _check(scaling, examples=examples)
    return _reciprocal(mean_diagonal) if scaling == "unit" else 1.0 / examples


def scale_off_diagonal(matrix: Tensor, factor: float) -> Tensor:
    """λ X + (1 − λ) diag X: off-diagonal entries times λ, as in the published RegMean and MaTS.

    Args:
        matrix: [..., n, n].
        factor: λ in [0, 1]; 1 keeps the matrix (and returns it), 0 its diagonal.

    Raises:
        RequestError: λ outside [0, 1], where the result need not be positive semi-definite.
    """
    if not 0 <= factor <= 1:
        raise RequestError(f"off-diagonal scale is {factor}; expected a number in [0, 1]")
    if factor == 1:
        return matrix
    scaled = matrix * factor
    scaled.diagonal(dim1=-2, dim2=-1).copy_(matrix.diagonal(dim1=-2, dim2=-1))
    return scaled


def mean_diagonal(matrix: Tensor) -> Tensor:
    """tr X ÷ n of [..., n, n] → [...], float64."""
    return matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1, dtype=torch.float64)


def _check(scaling: Scaling, **counts: float) -> None:
    """Refuse an unknown scaling and counts that are not positive."""
    if scaling not in SCALINGS:
        raise RequestError(f"scaling {scaling!r}; expected one of {', '.join(SCALINGS)}")
    for name, count in counts.items():
        if not (math.isfinite(count) and count > 0):
            raise RequestError(f"scaling {scaling}: {name.replace('_', ' ')} is {count}; expected a positive number")


def _reciprocal(value: float) -> float:
    """1/x; 0 for 0: a model without any curvature has none in any scaling."""
    if not math.isfinite(value) or value < 0:
        raise RequestError(f"scaling unit: the mean diagonal is {value}; expected a number of at least 0")
    return 0.0 if value == 0 else 1.0 / value
