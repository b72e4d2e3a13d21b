"""Every operator × solver × (singular or not) × (anchor or not) against the dense float64 least-squares oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import anchor_strength, anchored_merge, null_share, quadratic_loss
from quadratic_cases import CASES, SYSTEMS, Case, make_case, make_targets
from torch import Tensor

from mats.solvers import Solution, SolverSettings, StopReason, solve_quadratic

names = pytest.mark.parametrize("name", sorted(CASES))
singularity = pytest.mark.parametrize("singular", [False, True], ids=["regular", "singular"])
solvers = pytest.mark.parametrize("solver", ["pcg", "cg", "direct", "auto"])

TIGHT = {"tolerance": 1e-10, "max_iterations": 2000, "precision": "float64"}


def truth(case: Case, targets: list[Tensor], start: Tensor, anchor: float) -> Tensor:
    """The dense answer for every system."""
    merged = []
    for system in range(SYSTEMS):
        curvatures = [C[system] for C in case.dense]
        mu = anchor_strength(curvatures, case.quadratic.weights, anchor)
        arrays = [target[system].numpy() for target in targets]
        merged.append(anchored_merge(curvatures, arrays, start[system].numpy(), case.quadratic.weights, mu))
    return torch.from_numpy(np.stack(merged))


def distance(solution: Solution, expected: Tensor, start: Tensor) -> float:
    """Error of the correction, relative to the correction, of the worst system."""
    error = (solution.value.cpu().double() - expected).flatten(1).norm(dim=1)
    return float((error / (expected - start).flatten(1).norm(dim=1)).max())


@solvers
@singularity
@names
def test_anchored(name: str, singular: bool, solver: str, device: str) -> None:
    case = make_case(name, singular=singular)
    targets, start = make_targets(case)
    settings = SolverSettings(name=solver, anchor=0.1, **TIGHT)  # type: ignore[arg-type]
    moved = case.quadratic.to(device)
    solution = solve_quadratic(moved, [t.to(device) for t in targets], start.to(device), settings)
    assert solution.solved
    assert distance(solution, truth(case, targets, start, 0.1), start) < 1e-7  # tolerance × condition number


@solvers
@names
def test_without_anchor(name: str, solver: str) -> None:
    case = make_case(name)
    targets, start = make_targets(case)
    settings = SolverSettings(name=solver, anchor=0.0, **TIGHT)  # type: ignore[arg-type]
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    assert solution.solved
    assert distance(solution, truth(case, targets, start, 0.0), start) < 1e-6


@pytest.mark.parametrize("solver", ["cg", "direct"])
@names
def test_singular_without_anchor_moves_least(name: str, solver: str) -> None:
    """Plain CG from x0, and every closed form, give the solution nearest to x0: nothing in the null space."""
    case = make_case(name, singular=True)
    targets, start = make_targets(case)
    settings = SolverSettings(name=solver, anchor=0.0, **TIGHT)  # type: ignore[arg-type]
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    assert distance(solution, truth(case, targets, start, 0.0), start) < 1e-6
    for system in range(SYSTEMS):
        move = (solution.value[system] - start[system]).numpy()
        assert null_share(case.total(system), move) < 1e-10


def test_preconditioner_without_anchor_lands_elsewhere() -> None:
    """The control: μ = 0 in PCG solves the system too, but moves far along its null space; μ > 0 does not."""
    case = make_case("kfac", singular=True)
    targets, start = make_targets(case)
    free = solve_quadratic(case.quadratic, targets, start, SolverSettings(anchor=0.0, **TIGHT))  # type: ignore[arg-type]
    nearest = truth(case, targets, start, 0.0)
    held = solve_quadratic(case.quadratic, targets, start, SolverSettings(anchor=1e-4, **TIGHT))  # type: ignore[arg-type]
    for system in range(SYSTEMS):
        assert free.certificates[system].relative_residual < 1e-6
        wandering = (free.value[system] - start[system]).numpy()
        assert null_share(case.total(system), wandering) > 0.05
        assert np.linalg.norm(wandering) > 1.02 * float((nearest[system] - start[system]).norm())
        assert null_share(case.total(system), (held.value[system] - start[system]).numpy()) < 1e-9


@singularity
@names
def test_float32_state_reaches_its_tolerance(name: str, singular: bool, device: str) -> None:
    case = make_case(name, singular=singular)
    targets, start = make_targets(case)
    narrow = case.quadratic.to(device, torch.float32)
    for solver in ("pcg", "cg"):
        settings = SolverSettings(name=solver, tolerance=1e-6, max_iterations=2000)  # type: ignore[arg-type]
        solution = solve_quadratic(narrow, [t.float().to(device) for t in targets], start.float().to(device), settings)
        assert solution.value.dtype == torch.float32
        assert {c.stop_reason for c in solution.certificates} == {StopReason.CONVERGED}
        assert (
            distance(solution, truth(case, targets, start, 0.1), start) < 1e-3
        )  # tolerance and rounding × condition number


@singularity
@names
def test_certificates_say_what_the_oracle_sees(name: str, singular: bool) -> None:
    """Residual, losses, μ and movement of an *unfinished* solve, all recomputed densely."""
    case = make_case(name, singular=singular)
    targets, start = make_targets(case)
    settings = SolverSettings(name="cg", anchor=0.05, max_iterations=3, precision="float64")
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    weights = case.quadratic.weights
    for system, certificate in enumerate(solution.certificates):
        curvatures = [C[system] for C in case.dense]
        arrays, x0, X = ([t[system].numpy() for t in targets], start[system].numpy(), solution.value[system].numpy())
        mu = anchor_strength(curvatures, weights, 0.05)
        assert certificate.anchor == pytest.approx(mu, rel=1e-12)
        b = sum(w * C @ (t - x0).ravel() for w, C, t in zip(weights, curvatures, arrays, strict=True))
        r = b - case.total(system) @ (X - x0).ravel() - mu * (X - x0).ravel()
        assert certificate.relative_residual == pytest.approx(
            np.linalg.norm(r) / np.linalg.norm(b), rel=1e-6, abs=1e-12
        )
        for model, C in enumerate(curvatures):
            assert certificate.loss_before[model] == pytest.approx(quadratic_loss(C, x0, arrays[model]), rel=1e-10)
            assert certificate.loss_after[model] == pytest.approx(
                quadratic_loss(C, X, arrays[model]), rel=1e-9, abs=1e-12
            )
        farthest = max(np.linalg.norm(t - x0) for t in arrays)
        assert certificate.movement == pytest.approx(np.linalg.norm(X - x0) / farthest, rel=1e-10)
        if certificate.stop_reason is not StopReason.CONVERGED:
            assert certificate.stop_reason is StopReason.ITERATION_LIMIT
            assert certificate.iterations == 3
