"""Two K-FAC models without an anchor, exactly: both pairs of factors become diagonal at once.

With S = G_1 + G_2 (each of unit trace) and T = S^(−1/2) Q on the range of S, Tᵀ G_1 T = diag(θ) and
Tᵀ G_2 T = diag(1 − θ); likewise R with φ for A_1, A_2. In coordinates Δ = T Y Rᵀ the system is the division

    Y = (Tᵀ B R) ⊘ (κ_1 θ φᵀ + κ_2 (1 − θ)(1 − φ)ᵀ).

The identity is not diagonal there, so an anchor has no place in it. Where θ = 0 and φ = 1 (or the reverse) neither
model sees anything; T is not orthogonal, so setting Y = 0 there would still move along the null space. What remains of
it in Δ is projected out, and the result is the solution nearest to the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from mats.quadratics import KroneckerQuadratic, Quadratic
from mats.solvers.outcome import Outcome, closed_form_outcome
from mats.solvers.problem import Problem


def is_pair(quadratic: Quadratic | None) -> TypeGuard[KroneckerQuadratic]:
    """Whether a quadratic is a K-FAC one of two models, with dense factors on both sides."""
    if not isinstance(quadratic, KroneckerQuadratic) or quadratic.models != 2:
        return False
    left, right = quadratic.left, quadratic.right
    return left is not None and right is not None and left.dim() == right.dim() == 4


def solve_pair(problem: Problem, quadratic: KroneckerQuadratic, cutoff: float) -> Outcome:
    """The solution nearest to x0 of G_1 Δ A_1 λ_1 + G_2 Δ A_2 λ_2 = B, system by system.

    Args:
        problem: the systems.
        quadratic: its Σ λ C (damping included) as two models, for which `is_pair` holds.
        cutoff: eigenvalues of G_1 + G_2, and θ or 1 − θ, below this share of the largest count as zero.
    """
    left, right = quadratic.left, quadratic.right
    assert left is not None
    assert right is not None
    correction = torch.zeros_like(problem.rhs)
    energies = quadratic.mean_diagonals()
    for system in range(problem.systems):
        # A model that contributes nothing must not widen the ranges by its other factor.
        present = [float(energies[i, system]) > 0 and quadratic.weights[i] > 0 for i in (0, 1)]
        rows, columns = (
            diagonalise_together(stack[0, system] * present[0], stack[1, system] * present[1], cutoff)
            for stack in (left, right)
        )
        correction[system] = _solve_one(problem.rhs[system], rows, columns, quadratic.weights)
    shift = torch.zeros_like(problem.scale)
    residual, losses = problem.residual(correction, shift)
    return closed_form_outcome(correction, shift, residual, losses)


@dataclass(frozen=True)
class SharedDiagonal:
    """Two matrices made diagonal by one congruence: Tᵀ X_1 T = t_1 θ, Tᵀ X_2 T = t_2 (1 − θ) on the range of their sum.

    Attributes:
        transform: T [n, rank] float64.
        share: θ [rank], set to exactly 0 or 1 within the cutoff.
        traces: t_1, t_2.
    """

    transform: Tensor
    share: Tensor
    traces: tuple[float, float]


def diagonalise_together(first: Tensor, second: Tensor, cutoff: float) -> SharedDiagonal:
    """Simultaneous diagonalisation of two positive semi-definite matrices [n, n], singular ones included.

    Source: Golub and Van Loan, *Matrix Computations*, section 8.7 (generalised symmetric eigenproblem), on a range.
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    traces = (max(float(first.trace()), 0.0), max(float(second.trace()), 0.0))
    first, second = (matrix / (trace or 1.0) for matrix, trace in zip((first, second), traces, strict=True))
    values, vectors = torch.linalg.eigh(_symmetric(first + second))
    seen = values > cutoff * values[-1].clamp(min=0)
    whitener = vectors[:, seen] * values[seen].rsqrt()
    share, rotation = torch.linalg.eigh(_symmetric(whitener.mT @ first @ whitener))
    transform = whitener @ rotation
    # tᵀ E t ≤ ‖E‖ ‖t‖²: rounding of the factors, seen along each direction.
    edge = (cutoff * values[-1] * transform.square().sum(dim=0)).clamp(max=0.5)
    share = torch.where(share < edge, 0.0, torch.where(share > 1 - edge, 1.0, share))
    return SharedDiagonal(transform, share, traces)


def _solve_one(B: Tensor, rows: SharedDiagonal, columns: SharedDiagonal, weights: tuple[float, ...]) -> Tensor:
    """One system: [out, in] → [out, in]."""
    kappa = [weights[i] * rows.traces[i] * columns.traces[i] for i in (0, 1)]
    first = rows.share[:, None] * columns.share[None, :]
    second = (1 - rows.share)[:, None] * (1 - columns.share)[None, :]
    curvature = kappa[0] * first + kappa[1] * second
    seen = curvature > 0
    Y = rows.transform.mT @ B @ columns.transform
    Y = torch.where(seen, Y / torch.where(seen, curvature, 1.0), 0.0)
    return _without_null_space(rows.transform @ Y @ columns.transform.mT, rows, columns)


def _without_null_space(X: Tensor, rows: SharedDiagonal, columns: SharedDiagonal) -> Tensor:
    """X minus its orthogonal projection on the null space that lies inside the ranges.

    That space is P ⊗ Q + P' ⊗ Q': rows that only the second model sees times columns that only the first sees, and the
    reverse. The singular values σ of PᵀP' and τ of QᵀQ' pair its coordinates; each pair is a 2 × 2 system.
    """
    P, P_other = (_orthonormal(rows.transform[:, rows.share == side]) for side in (0.0, 1.0))
    Q, Q_other = (_orthonormal(columns.transform[:, columns.share == side]) for side in (1.0, 0.0))
    U, sigma, V = torch.linalg.svd(P.mT @ P_other)
    S, tau, T = torch.linalg.svd(Q.mT @ Q_other)
    P, P_other, Q, Q_other = P @ U, P_other @ V.mT, Q @ S, Q_other @ T.mT
    coordinates, other = P.mT @ X @ Q, P_other.mT @ X @ Q_other
    cosine = sigma[:, None] * tau[None, :]
    r, c = cosine.shape
    sine = (1 - cosine.square()).clamp(min=1e-30)
    own, opposite = coordinates[:r, :c].clone(), other[:r, :c].clone()
    coordinates[:r, :c] = (own - cosine * opposite) / sine
    other[:r, :c] = (opposite - cosine * own) / sine
    return X - P @ coordinates @ Q.mT - P_other @ other @ Q_other.mT


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of independent columns."""
    return torch.linalg.qr(columns)[0]


def _symmetric(matrix: Tensor) -> Tensor:
    """(X + Xᵀ) / 2."""
    return (matrix + matrix.mT) / 2
