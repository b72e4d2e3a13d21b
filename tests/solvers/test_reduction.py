"""Models that agree in a factor are one: closed forms with any anchor; exact damped pairs; against dense answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_cases import check, gram, stack

from mats.quadratics import DampedQuadratic, KroneckerQuadratic
from mats.solvers import SolverSettings, StopReason
from mats.solvers.reduction import reduced

HOLDS = pytest.mark.parametrize(("anchor", "damping"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.3, 0.03)])
WEIGHTS = (1.0, 0.5, 2.0)


@HOLDS
@pytest.mark.parametrize("side", [0, 1])
def test_all_factors_of_a_side_proportional(side: int, anchor: float, damping: float) -> None:
    random = np.random.default_rng(side)
    shared = gram(random, 5 + side)
    scaled = [scale * shared for scale in (1.0, 1e-3, 40.0)]
    own = [gram(random, 6 - side) for _ in WEIGHTS]
    sides = (scaled, own) if side == 0 else (own, scaled)
    settings = SolverSettings(name="direct", anchor=anchor, damping=damping, dense_limit=1)
    solution, error, _ = check(*sides, settings, WEIGHTS)
    assert solution.certificates[0].stop_reason is StopReason.CLOSED_FORM
    assert error < 1e-9


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.3])
def test_two_models_with_damping_are_exact(damping: float) -> None:
    random = np.random.default_rng(7)
    G, A = (
        [gram(random, 5, 3 + 9 * (damping == 0)) for _ in range(2)],
        [gram(random, 6, 4 + 9 * (damping == 0)) for _ in range(2)],
    )
    settings = SolverSettings(name="direct", anchor=0.0, damping=damping, dense_limit=1)
    solution, error, _ = check(G, A, settings, (1.0, 3.0))
    assert solution.certificates[0].stop_reason is StopReason.CLOSED_FORM
    assert error < 1e-7


def test_which_models_are_merged() -> None:
    random = np.random.default_rng(3)
    G, A = [gram(random, 4) for _ in range(3)], [gram(random, 5) for _ in range(3)]
    twice = KroneckerQuadratic(stack([G[0], G[1], G[0]]), stack([A[0], A[1], A[0]]), WEIGHTS)
    assert reduced(twice).models == 2
    nothing = KroneckerQuadratic(stack([G[0], G[1], 0 * G[0]]), stack(A), WEIGHTS)
    assert reduced(nothing).models == 2
    different = KroneckerQuadratic(stack(G), stack(A), WEIGHTS)
    assert reduced(different) is different
    nearly = KroneckerQuadratic(stack([G[0], G[1], G[0] * (1 + 1e-6 * np.eye(4))]), stack(A), WEIGHTS)
    assert reduced(nearly) is nearly


@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_the_operator_stays_the_same(strength: float) -> None:
    random = np.random.default_rng(4)
    G, A = [gram(random, 4) for _ in range(3)], [gram(random, 5) for _ in range(3)]
    kfac = KroneckerQuadratic(stack([G[0], G[1], 3 * G[0]]), stack(A), WEIGHTS)
    whole = DampedQuadratic(kfac, strength) if strength else kfac
    fewer = reduced(whole)
    assert fewer.models < whole.models
    X = torch.randn(1, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(fewer.apply(X), whole.apply(X), rtol=1e-12, atol=1e-12)
    if isinstance(whole, DampedQuadratic):
        folded = whole.as_kronecker()
        assert folded is not None
        torch.testing.assert_close(folded.apply(X), whole.apply(X), rtol=1e-12, atol=1e-12)
