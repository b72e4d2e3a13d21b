"""Our iterates are SciPy's, one by one, on the same operator: plain and preconditioned, with SciPy's stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import Matrix, anchor_strength
from quadratic_cases import CASES, SYSTEMS, Case, make_case, make_targets
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mats.scipy_view import linear_operator
from mats.solvers import SolverSettings, StopReason, solve_quadratic


def scipy_iterates(A: Matrix, b: Matrix, x0: Matrix, steps: int, M: LinearOperator | None = None) -> list[Matrix]:
    """SciPy's iterates from x0."""
    seen: list[Matrix] = []
    cg(A, b, x0=x0, rtol=0.0, atol=0.0, maxiter=steps, M=M, callback=lambda x: seen.append(x.copy()))
    return seen


def right_side(case: Case, targets: list[Tensor], system: int) -> Matrix:
    """b of the system for W itself: Σ λ C W."""
    parts = zip(case.quadratic.weights, case.dense, targets, strict=True)
    return sum(w * C[system] @ t[system].numpy().ravel() for w, C, t in parts)


@pytest.mark.parametrize("singular", [False, True], ids=["regular", "singular"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_plain_iterates(name: str, singular: bool) -> None:
    """The system for W started at x0 (the published form) and ours for the correction make the same iterates."""
    case = make_case(name, singular=singular)
    targets, start = make_targets(case)
    steps = 4  # beyond, an eigenvalue a thousand times the others amplifies the last bit of each step a hundredfold
    settings = SolverSettings(
        name="cg", anchor=0.0, tolerance=0.0, max_iterations=steps, snapshots=tuple(range(1, steps + 1)),
        precision="float64", refinements=0,
    )  # fmt: skip
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    for system in range(SYSTEMS):
        x0 = start[system].numpy().ravel()
        reference = scipy_iterates(case.total(system), right_side(case, targets, system), x0, steps)
        moved = np.linalg.norm(reference[-1] - x0)
        for step, theirs in enumerate(reference, start=1):
            ours = solution.snapshots[step][system].numpy().ravel()
            assert np.linalg.norm(ours - theirs) < 1e-6 * moved, (step, system)


def test_iterates_differ_between_systems_and_steps() -> None:
    """A control for the one above: the iterates are far apart where they should be."""
    case = make_case("kfac")
    targets, start = make_targets(case)
    settings = SolverSettings(name="cg", anchor=0.0, tolerance=0.0, max_iterations=6, snapshots=(2, 3))
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    move = (solution.snapshots[3] - start).norm()
    assert (solution.snapshots[3] - solution.snapshots[2]).norm() > 0.01 * move


def test_preconditioned_iterates() -> None:
    """PCG against SciPy with the preconditioner written out densely from its formula."""
    case = make_case("kfac")
    targets, start = make_targets(case)
    steps, anchor = 10, 0.05
    settings = SolverSettings(
        name="pcg", anchor=anchor, tolerance=0.0, max_iterations=steps, snapshots=(1, 2, 5, 10),
        precision="float64", refinements=0,
    )  # fmt: skip
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    G, A = case.quadratic.left.numpy(), case.quadratic.right.numpy()  # type: ignore[attr-defined]
    for system in range(SYSTEMS):
        curvatures = [C[system] for C in case.dense]
        mu = anchor_strength(curvatures, case.quadratic.weights, anchor)
        total = case.total(system)
        traces = [(np.trace(G[i, system]), np.trace(A[i, system])) for i in range(3)]
        shares = [np.sqrt(w * g * a) for w, (g, a) in zip(case.quadratic.weights, traces, strict=True)]
        left = sum(s * G[i, system] / traces[i][0] for i, s in enumerate(shares))
        right = sum(s * A[i, system] / traces[i][1] for i, s in enumerate(shares))
        product = np.kron(left, right)
        inverse = np.linalg.inv(product * np.trace(total) / np.trace(product) + mu * np.eye(len(product)))
        x0 = start[system].numpy().ravel()
        b = right_side(case, targets, system) + mu * x0
        reference = scipy_iterates(total + mu * np.eye(len(total)), b, x0, steps, M=inverse)
        for step in (1, 2, 5, 10):
            ours = solution.snapshots[step][system].numpy().ravel()
            assert np.linalg.norm(ours - reference[step - 1]) < 1e-8 * np.linalg.norm(reference[-1] - x0)


@pytest.mark.parametrize("name", ["kfac", "regmean", "diagonal_fisher", "average"])
def test_published_stop(name: str) -> None:
    """Relative 1e-5 of ‖Σ λ C W‖, as SciPy stops for the published code: the same iterations, the same weights."""
    case = make_case(name)
    targets, start = make_targets(case)
    settings = SolverSettings(
        name="cg",
        anchor=0.0,
        tolerance=1e-5,
        max_iterations=500,
        precision="float64",
        refinements=0,
        reference="weights",
    )
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    for system, certificate in enumerate(solution.certificates):
        steps: list[Matrix] = []
        b, x0 = right_side(case, targets, system), start[system].numpy().ravel()
        theirs, code = cg(case.total(system), b, x0=x0, rtol=1e-5, atol=0.0, maxiter=500, callback=steps.append)
        assert code == 0
        assert certificate.stop_reason is StopReason.CONVERGED
        assert certificate.iterations == len(steps)
        np.testing.assert_allclose(solution.value[system].numpy().ravel(), theirs, rtol=1e-7, atol=1e-9)


def test_float32_iterates_on_the_very_same_operator() -> None:
    """SciPy driving *our* operator in float32 stays with our float32 iteration for the published dozen of steps."""
    case = make_case("kfac")
    narrow = case.quadratic.to(dtype=torch.float32)
    targets, start = make_targets(case)
    settings = SolverSettings(
        name="cg", anchor=0.0, tolerance=0.0, max_iterations=12, snapshots=(1, 4, 8), refinements=0
    )
    solution = solve_quadratic(narrow, targets, start, settings)
    b = narrow.rhs(targets, start)
    for system in range(SYSTEMS):
        operator = linear_operator(narrow, system=system)
        delta = scipy_iterates(operator, b[system].numpy().ravel(), np.zeros(b[system].numel()), 8)
        for step in (1, 4, 8):
            ours = (solution.snapshots[step][system] - start[system]).numpy().ravel()
            assert np.linalg.norm(ours - delta[step - 1]) < 2e-4 * np.linalg.norm(delta[-1])
