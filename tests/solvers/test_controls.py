"""Negative controls: each of the usual mistakes must land somewhere else, by a margin the oracle tests would see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import Matrix, anchor_strength, anchored_merge, kronecker
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, solve_quadratic

SIZE, ROWS, EXAMPLES, ANCHOR = 5, (30, 90), (10, 10), 0.1
WEIGHTS = (1.0, 2.0)


@pytest.fixture
def problem() -> tuple[list[Matrix], list[Matrix], list[Matrix], Matrix]:
    """Rows δ and a of two models with square layers (so that shapes hide nothing), targets, start."""
    random = np.random.default_rng(11)
    spread = np.linspace(0.2, 2.0, SIZE)
    deltas = [random.standard_normal((rows, SIZE)) * spread[::-1] for rows in ROWS]
    inputs = [random.standard_normal((rows, SIZE)) @ random.standard_normal((SIZE, SIZE)) for rows in ROWS]
    targets = [random.standard_normal((SIZE, SIZE)) for _ in ROWS]
    return deltas, inputs, targets, random.standard_normal((SIZE, SIZE))


def ours(
    left: list[Matrix], right: list[Matrix], targets: list[Matrix], start: Matrix, weights: tuple[float, ...]
) -> Matrix:
    """The product's answer for C_i = left ⊗ right."""

    def stack(matrices: list[Matrix]) -> Tensor:
        return torch.from_numpy(np.array(matrices))[:, None]

    quadratic = KroneckerQuadratic(stack(left), stack(right), weights)
    settings = SolverSettings(anchor=ANCHOR, tolerance=1e-10, precision="float64")
    solution = solve_quadratic(quadratic, stack(targets), torch.from_numpy(start)[None], settings)
    merged: Matrix = solution.value[0].numpy()
    return merged


def test_each_mistake_is_visible(problem: tuple[list[Matrix], list[Matrix], list[Matrix], Matrix]) -> None:
    deltas, inputs, targets, start = problem
    G = [d.T @ d / n for d, n in zip(deltas, EXAMPLES, strict=True)]
    A = [a.T @ a / len(a) for a in inputs]
    curvatures = [kronecker(g, a) for g, a in zip(G, A, strict=True)]
    mu = anchor_strength(curvatures, WEIGHTS, ANCHOR)
    truth = anchored_merge(curvatures, targets, start, WEIGHTS, mu)
    move = np.linalg.norm(truth - start)

    def error(merged: Matrix) -> float:
        return float(np.linalg.norm(merged - truth) / move)

    assert error(ours(G, A, targets, start, WEIGHTS)) < 1e-8
    by_tokens = [d.T @ d / len(d) for d in deltas]
    off_by_one = [A[0], inputs[1].T @ inputs[1] / (len(inputs[1]) - 1)]
    mistakes = {
        "A and G swapped": ours(A, G, targets, start, WEIGHTS),
        "λ dropped": ours(G, A, targets, start, (1.0, 1.0)),
        "tokens ÷ examples dropped": ours(by_tokens, A, targets, start, WEIGHTS),
        "targets transposed": ours(G, A, [t.T for t in targets], start, WEIGHTS),
        "another start": ours(G, A, targets, start * 0, WEIGHTS),
    }
    for mistake, merged in mistakes.items():
        assert error(merged) > 0.02, mistake
    assert error(ours(G, off_by_one, targets, start, WEIGHTS)) > 1e-5  # 1/89 for 1/90 on one of two models
    assert error(anchored_merge(curvatures, targets, start, WEIGHTS, 0.0)) > 0.02, "no anchor"
    assert error(anchored_merge(curvatures, targets, start, WEIGHTS, mu * SIZE)) > 0.02, "trace for mean diagonal"
