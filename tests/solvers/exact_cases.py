"""K-FAC problems of several models in NumPy beside their dense anchored answer, for tests of closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from oracles import Matrix, anchor_strength, anchored_merge, kronecker
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import Solution, SolverSettings, solve_quadratic


def full(factor: Matrix) -> Matrix:
    """A factor as a matrix, where only its diagonal is given."""
    return factor if factor.ndim == 2 else np.diag(factor)


def gram(random: np.random.Generator, size: int, rows: int = 30) -> Matrix:
    """A Gram matrix of random rows."""
    data = random.standard_normal((rows, size))
    return data.T @ data / rows


def stack(factors: Sequence[Matrix], dtype: torch.dtype = torch.float64) -> Tensor:
    """[m, 1, …]."""
    return torch.from_numpy(np.array(factors))[:, None].to(dtype)


def dense_answer(
    G: Sequence[Matrix],
    A: Sequence[Matrix],
    targets: Sequence[Matrix],
    start: Matrix,
    weights: Sequence[float],
    anchor: float,
    damping: float,
) -> Matrix:
    """The minimiser by least squares; damping as defined: (G + s ḡ I) ⊗ (A + s ā I) − G ⊗ A, around the start."""
    plain = [kronecker(full(g), full(a)) for g, a in zip(G, A, strict=True)]
    extra = np.zeros_like(plain[0])
    for g, a, C, weight in zip(map(full, G), map(full, A), plain, weights, strict=True):
        held = [M + damping * np.trace(M) / len(M) * np.eye(len(M)) for M in (g, a)]
        extra += weight * (kronecker(*held) - C)
    curvatures, all_weights = [*plain, extra], [*weights, 1.0]
    mu = anchor_strength(curvatures, all_weights, anchor)
    answer: Matrix = anchored_merge(curvatures, [*targets, start], start, all_weights, mu)
    return answer


def check(
    G: Sequence[Matrix], A: Sequence[Matrix], settings: SolverSettings, weights: Sequence[float], seed: int = 0
) -> tuple[Solution, float, Matrix]:
    """Solve, and give the relative error of the correction against the dense answer, and the correction."""
    random = np.random.default_rng(seed)
    shape = (len(G[0]), len(A[0]))
    targets = [random.standard_normal(shape) for _ in G]
    start = random.standard_normal(shape)
    quadratic = KroneckerQuadratic(stack(G), stack(A), weights)
    solution = solve_quadratic(quadratic, stack(targets), torch.from_numpy(start)[None], settings)
    expected = dense_answer(G, A, targets, start, weights, settings.anchor, settings.damping)
    value = solution.value[0].numpy()
    return solution, float(np.linalg.norm(value - expected) / np.linalg.norm(expected - start)), value - start
