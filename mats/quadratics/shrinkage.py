"""Shrinkage of Gram matrices toward a multiple of the identity: X ↦ (1 − ρ) X + ρ · (tr X / n) · I.

When rows are few, a sample Gram exaggerates: large eigenvalues come out too large, small ones too small. Solving to
convergence then fits noise; shrinking first is the principled form of stopping early. Intensities are for *uncentred*
second moments S = Σ x xᵀ / T of T independent rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mats.errors import RequestError

ShrinkageRule = Literal["ledoit_wolf", "oas"]


def shrink(matrix: Tensor, intensity: float | Tensor) -> Tensor:
    """(1 − ρ) X + ρ · (tr X / n) · I. Keeps the trace, and commutes with any scaling of X.

    Args:
        matrix: [..., n, n].
        intensity: ρ in [0, 1], a number or [...].

    Raises:
        RequestError: ρ outside [0, 1].
    """
    share = torch.as_tensor(intensity, dtype=torch.float64, device=matrix.device)
    if not bool(((share >= 0) & (share <= 1)).all()):
        raise RequestError(f"shrinkage intensity is {intensity}; expected a number in [0, 1]")
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1, dtype=torch.float64)
    shrunk = matrix * (1 - share).to(matrix.dtype)[..., None, None]
    shrunk.diagonal(dim1=-2, dim2=-1).add_((share * mean).to(matrix.dtype)[..., None])
    return shrunk


def ledoit_wolf_intensity(gram_sum: Tensor, rows: float, fourth_moment: float) -> float:
    """The Ledoit–Wolf intensity, from sums alone.

    With S = gram_sum / T: d² = ‖S − (tr S / n) I‖², b² = (Σ_t ‖x_t x_tᵀ − S‖²) / T² = (Σ_t ‖x_t‖⁴ − T ‖S‖²) / T², and
    ρ = min(b², d²) / d².

    Args:
        gram_sum: Σ x xᵀ [n, n], over all rows, not divided.
        rows: T.
        fourth_moment: Σ_t ‖x_t‖⁴.

    Returns:
        ρ in [0, 1]; 0 for a multiple of the identity, which shrinkage would not change.

    Raises:
        RequestError: T is not positive.

    Source: Ledoit and Wolf, *A well-conditioned estimator for large-dimensional covariance matrices* (2004), section 3.
    """
    square, trace, size = _moments(gram_sum, rows)
    distance = square - trace**2 / size
    noise = (fourth_moment / rows - square) / rows
    return _share(noise, distance)


def oas_intensity(gram_sum: Tensor, rows: float) -> float:
    """The oracle-approximating intensity; needs no fourth moment, assumes Gaussian rows.

    ρ = min(1, ((1 − 2/n) tr S² + tr² S) / ((T + 1 − 2/n) (tr S² − tr² S / n))).

    Args:
        gram_sum: Σ x xᵀ [n, n], over all rows, not divided.
        rows: T.

    Raises:
        RequestError: T is not positive.

    Source: Chen, Wiesel, Eldar and Hero, *Shrinkage algorithms for MMSE covariance estimation* (2010), equation 23.
    """
    square, trace, size = _moments(gram_sum, rows)
    numerator = (1 - 2 / size) * square + trace**2
    return _share(numerator / (rows + 1 - 2 / size), square - trace**2 / size)


def shrinkage_intensity(
    rule: float | ShrinkageRule, gram_sum: Tensor, rows: float | None = None, fourth_moment: float | None = None
) -> float:
    """ρ by any rule: a fixed share, `ledoit_wolf` (needs rows and fourth moment) or `oas` (needs rows).

    Raises:
        RequestError: an unknown rule, or the counts that it needs are missing.
    """
    if not isinstance(rule, str):
        return float(rule)
    if rule not in ("ledoit_wolf", "oas"):
        raise RequestError(f"shrinkage {rule!r}; expected a number in [0, 1], ledoit_wolf or oas")
    if rows is None or (rule == "ledoit_wolf" and fourth_moment is None):
        needs = "the number of rows and Σ‖x‖⁴" if rule == "ledoit_wolf" else "the number of rows"
        raise RequestError(f"shrinkage {rule} needs {needs} of every Gram matrix; give them, or a fixed share")
    if rule == "oas":
        return oas_intensity(gram_sum, rows)
    assert fourth_moment is not None
    return ledoit_wolf_intensity(gram_sum, rows, fourth_moment)


def _moments(gram_sum: Tensor, rows: float) -> tuple[float, float, int]:
    """tr S², tr S and n of S = gram_sum / T."""
    if not rows > 0:
        raise RequestError(f"shrinkage: the number of rows is {rows}; expected a positive number")
    norm = float(torch.linalg.vector_norm(gram_sum, dtype=torch.float64)) / rows
    trace = float(gram_sum.diagonal().sum(dtype=torch.float64)) / rows
    return norm**2, trace, gram_sum.shape[-1]


def _share(noise: float, distance: float) -> float:
    """min(noise, distance) ÷ distance, within [0, 1]; 0 where the distance is rounding."""
    if distance <= 0:
        return 0.0
    return min(max(noise, 0.0), distance) / distance
