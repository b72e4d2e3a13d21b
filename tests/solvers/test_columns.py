"""Systems whose columns do not meet: by the matrices that columns share, against the dense answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_cases import check, gram, stack
from oracles import Matrix
from quadratic_cases import make_case, make_targets

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, StopReason, solve_quadratic
from mats.solvers.columns import independent_columns, solve_columns
from mats.solvers.problem import make_problem

WEIGHTS = (1.0, 0.5, 2.0)
COUNTS = [np.array(line, dtype=float) for line in ([3, 0, 1, 0, 0, 1, 7], [0, 0, 2, 0, 3, 0, 7], [0, 0, 1, 0, 0, 0, 1])]


def embedding() -> tuple[list[Matrix], list[Matrix]]:
    """Output Grams of three models, and how often each saw seven tokens: two were seen by none."""
    random = np.random.default_rng(1)
    return [gram(random, 6) for _ in COUNTS], [counts / 10 for counts in COUNTS]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("anchor", "damping"), [(0.1, 0.0), (0.0, 0.1), (0.3, 0.03)])
def test_is_the_dense_answer(anchor: float, damping: float, swapped: bool) -> None:
    G, A = embedding()
    settings = SolverSettings(name="auto", anchor=anchor, damping=damping)
    solution, error, move = check(A, G, settings, WEIGHTS) if swapped else check(G, A, settings, WEIGHTS)
    assert solution.certificates[0].stop_reason is StopReason.CLOSED_FORM
    assert solution.certificates[0].relative_residual < 1e-12
    assert error < 1e-12
    unseen = (move.T if swapped else move)[:, [1, 3]]
    assert (unseen == 0).all()


def test_which_columns_share_a_matrix_matters() -> None:
    """The control: with the counts of two tokens exchanged the answer is another."""
    G, A = embedding()
    moves = []
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 1, 2, 3, 4, 5, 0]):
        settings = SolverSettings(name="auto", anchor=0.1)
        moves.append(check(G, [a[order] for a in A], settings, WEIGHTS)[2])
    assert np.linalg.norm(moves[0] - moves[1]) > 0.01 * np.linalg.norm(moves[0])


@pytest.mark.parametrize("name", ["diagonal_right", "diagonal_left", "tied_kfac", "damped_diagonal_right"])
def test_every_kind_of_term(name: str) -> None:
    case = make_case(name)
    targets, start = make_targets(case)
    problem = make_problem(case.quadratic, targets, start, "correction")
    shift = torch.full_like(problem.scale, 0.05)
    outcome = solve_columns(problem, shift)
    assert outcome is not None
    reference = solve_quadratic(case.quadratic, targets, start, SolverSettings(name="direct", anchor=0.05))
    torch.testing.assert_close(start + outcome.correction, reference.value, rtol=1e-9, atol=1e-9)


def test_left_to_others() -> None:
    """Without anything that holds unseen directions, and where columns do meet."""
    case = make_case("diagonal_right")
    targets, start = make_targets(case)
    problem = make_problem(case.quadratic, targets, start, "correction")
    assert solve_columns(problem, torch.zeros_like(problem.scale)) is None
    for name in ("kfac", "regmean", "both_diagonal", "kfac_and_diagonal"):
        assert independent_columns(make_case(name).quadratic) is None


def test_many_different_columns_are_iterated() -> None:
    """Two models, and no two columns alike: factorising each matrix would cost more."""
    random = np.random.default_rng(2)
    G, A = [gram(random, 100, 200) for _ in range(2)], [random.random(9) for _ in range(2)]
    quadratic = KroneckerQuadratic(stack(G), stack(A))
    targets, start = torch.randn(2, 1, 100, 9), torch.zeros(1, 100, 9)
    solution = solve_quadratic(quadratic, targets, start, SolverSettings(name="auto"))
    assert solution.certificates[0].stop_reason is StopReason.CONVERGED


def test_columns_that_a_model_did_not_see_are_not_multiplied() -> None:
    """`apply_model` leaves them out; the result is the same as with all of them."""
    counts = torch.zeros(1, 2, 40, dtype=torch.float64)
    counts[0, 0, :3] = 2.0
    counts[0, 1, 2:6] = 1.0
    rows = torch.randn(1, 2, 9, 5, dtype=torch.float64)
    G = rows.mT @ rows
    X = torch.randn(2, 5, 40, dtype=torch.float64)
    product = KroneckerQuadratic(G, counts).apply_model(0, X)
    torch.testing.assert_close(product, G[0] @ X * counts[0][:, None, :], rtol=1e-12, atol=1e-12)
