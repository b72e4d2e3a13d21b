"""Naive, dense, float64 answers in NumPy. Nothing here knows the product: no shared code, no shared convention.

A weight [out, in] is flattened row by row, so that vec(G X A) = (G ⊗ Aᵀ) vec(X), and A is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

NULL = 1e-10  # singular values of a float64 problem below this share of the largest are zero


def kronecker(left: Matrix, right: Matrix) -> Matrix:
    """The matrix of X ↦ G X A on flattened X, entry by entry."""
    out, inner = len(left), len(right)
    matrix = np.zeros((out * inner, out * inner))
    for row in range(out):
        for other_row in range(out):
            block = slice(row * inner, (row + 1) * inner), slice(other_row * inner, (other_row + 1) * inner)
            matrix[block] = left[row, other_row] * right.T
    return matrix


def anchor_strength(curvatures: Sequence[Matrix], weights: Sequence[float], anchor: float) -> float:
    """μ = anchor · Σ λ · mean diagonal of C."""
    return anchor * sum(weight * float(np.mean(np.diag(C))) for weight, C in zip(weights, curvatures, strict=True))


def anchored_merge(
    curvatures: Sequence[Matrix],
    targets: Sequence[Matrix],
    start: Matrix,
    weights: Sequence[float],
    mu: float,
) -> Matrix:
    """x0 + Δ, with Δ the shortest solution of (Σ λ C + μI) Δ = Σ λ C (W − x0)."""
    total = sum(weight * C for weight, C in zip(weights, curvatures, strict=True))
    rhs = sum(
        weight * (C @ (target - start).ravel()) for weight, C, target in zip(weights, curvatures, targets, strict=True)
    )
    delta = np.linalg.lstsq(total + mu * np.eye(len(total)), rhs, rcond=NULL)[0]
    return start + delta.reshape(start.shape)


def quadratic_loss(C: Matrix, X: Matrix, target: Matrix) -> float:
    """½ ⟨X − W, C (X − W)⟩."""
    difference = (X - target).ravel()
    return 0.5 * float(difference @ C @ difference)


def null_share(C: Matrix, X: Matrix) -> float:
    """Share of ‖X‖² in the null space of C."""
    values, vectors = np.linalg.eigh(C)
    hidden = vectors[:, values <= NULL * values[-1]]
    return float(np.sum((hidden.T @ X.ravel()) ** 2) / np.sum(X**2))


def smallest_anchor_within(
    curvatures: Sequence[Matrix],
    targets: Sequence[Matrix],
    start: Matrix,
    weights: Sequence[float],
    radius: float,
) -> float:
    """The smallest μ whose merge moves at most radius × the farthest target's distance, by plain bisection."""
    longest = radius * max(float(np.linalg.norm(target - start)) for target in targets)

    def moved(mu: float) -> float:
        return float(np.linalg.norm(anchored_merge(curvatures, targets, start, weights, mu) - start))

    if moved(0.0) <= longest:
        return 0.0
    low, high = 0.0, 1.0
    while moved(high) > longest:
        high *= 10
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) > longest else (low, middle)
    return high
