"""What must not change an answer, for random problems: order, company, units, coordinates, the origin of weights."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import Solution, SolverSettings, solve_quadratic

CLOSE = 2e-5  # of the move; tolerance 1e-8 in float64, condition numbers of a few hundred with a pull of 0.1
problems = st.integers(0, 10_000)
few = settings(max_examples=12, deadline=None)
by_solver = pytest.mark.parametrize("solver", ["cg", "pcg", "direct"])
by_pull = pytest.mark.parametrize("pull", ["anchor", "damping"])


@dataclass(frozen=True)
class Random:
    """A random K-FAC problem: factors [m, L, n, n], weights, targets [m, L, out, in], start; float64."""

    left: Tensor
    right: Tensor
    weights: tuple[float, ...]
    targets: Tensor
    start: Tensor

    def solve(self, solver: str, pull: str) -> Tensor:
        """Δ."""
        return self.solution(solver, pull).value - self.start

    def solution(self, solver: str, pull: str) -> Solution:
        asked = SolverSettings(
            name=solver,  # type: ignore[arg-type]
            anchor=0.1 if pull == "anchor" else 0.0,
            damping=0.1 if pull == "damping" else 0.0,
            tolerance=1e-8,
            max_iterations=2000,
            precision="float64",
        )
        quadratic = KroneckerQuadratic(self.left, self.right, self.weights)
        solution = solve_quadratic(quadratic, self.targets, self.start, asked)
        assert solution.solved
        return solution


def problem(seed: int) -> Random:
    """Random sizes; every third one is rank-deficient."""
    generator = torch.Generator().manual_seed(seed)
    models, systems, out, inner = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((2, 5), (2, 4), (2, 6), (2, 6))
    )
    rows = 2 if seed % 3 == 0 else 12

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = (normal(models, systems, rows, size) for size in (out, inner))
    weights = tuple((0.2 + 2 * torch.rand(models, generator=generator, dtype=torch.float64)).tolist())
    return Random(
        left.mT @ left / rows,
        right.mT @ right / rows,
        weights,
        normal(models, systems, out, inner),
        normal(systems, out, inner),
    )


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm()) <= CLOSE * float(expected.norm())


@by_solver
@by_pull
@few
@given(seed=problems)
def test_the_order_of_models(solver: str, pull: str, seed: int) -> None:
    p = problem(seed)
    order = torch.randperm(len(p.weights), generator=torch.Generator().manual_seed(seed))
    weights = tuple(p.weights[i] for i in order.tolist())
    turned = Random(p.left[order], p.right[order], weights, p.targets[order], p.start)
    assert_close(turned.solve(solver, pull), p.solve(solver, pull))


@by_solver
@by_pull
@few
@given(seed=problems)
def test_the_company_in_a_batch(solver: str, pull: str, seed: int) -> None:
    p = problem(seed)
    together = p.solve(solver, pull)
    for system in range(p.start.shape[0]):
        one = slice(system, system + 1)
        alone = Random(p.left[:, one], p.right[:, one], p.weights, p.targets[:, one], p.start[one])
        assert_close(alone.solve(solver, pull), together[one])


@by_solver
@by_pull
@few
@given(seed=problems, exponent=st.integers(-12, 12))
def test_the_unit_of_curvature(solver: str, pull: str, seed: int, exponent: int) -> None:
    p = problem(seed)
    scaled = Random(p.left * 10.0**exponent, p.right, p.weights, p.targets, p.start)
    assert_close(scaled.solve(solver, pull), p.solve(solver, pull))


@by_solver
@by_pull
@few
@given(seed=problems, exponent=st.integers(-8, 8))
def test_the_unit_of_the_weights_of_models(solver: str, pull: str, seed: int, exponent: int) -> None:
    p = problem(seed)
    scaled = Random(p.left, p.right, tuple(w * 10.0**exponent for w in p.weights), p.targets, p.start)
    assert_close(scaled.solve(solver, pull), p.solve(solver, pull))


@by_solver
@by_pull
@few
@given(seed=problems)
def test_rotated_inputs_and_outputs(solver: str, pull: str, seed: int) -> None:
    p = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        for size in p.start.shape[1:]
    )
    turned = Random(U @ p.left @ U.mT, V @ p.right @ V.mT, p.weights, U @ p.targets @ V.mT, U @ p.start @ V.mT)
    assert_close(U.mT @ turned.solve(solver, pull) @ V, p.solve(solver, pull))


@by_solver
@by_pull
@few
@given(seed=problems, shift=st.floats(-100, 100))
def test_the_origin_of_weights(solver: str, pull: str, seed: int, shift: float) -> None:
    p = problem(seed)
    moved = Random(p.left, p.right, p.weights, p.targets + shift, p.start + shift)
    assert_close(moved.solve(solver, pull), p.solve(solver, pull))


@by_solver
@few
@given(seed=problems)
def test_no_model_gains_nothing_together(solver: str, seed: int) -> None:
    """The sum of the models' quadratics does not rise above its value at the start."""
    p = problem(seed)
    for certificate in p.solution(solver, "damping").certificates:
        before = sum(w * loss for w, loss in zip(p.weights, certificate.loss_before, strict=True))
        after = sum(w * loss for w, loss in zip(p.weights, certificate.loss_after, strict=True))
        assert after <= before * (1 + 1e-9)


def test_a_single_rotated_factor_is_another_problem() -> None:
    """Negative control: rotating the inputs of the statistics alone changes the answer."""
    p = problem(1)
    V = torch.linalg.qr(torch.randn(p.start.shape[2], p.start.shape[2], dtype=torch.float64))[0]
    turned = Random(p.left, V @ p.right @ V.mT, p.weights, p.targets, p.start)
    difference = turned.solve("pcg", "damping") - p.solve("pcg", "damping")
    assert float(difference.norm()) > 0.05 * float(p.solve("pcg", "damping").norm())
