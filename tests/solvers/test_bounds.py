"""Every bound of a certificate against dense float64 solutions: never too small, and not much too large."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Matrix, kronecker

import mats.solvers.bounds
from mats.quadratics import DampedQuadratic, DiagonalQuadratic, KroneckerQuadratic, Quadratic
from mats.solvers import BoundKind, Certificate, SolverSettings, solve_quadratic
from mats.solvers.basis import joint_basis
from mats.solvers.certify import certify
from mats.solvers.outcome import closed_form_outcome
from mats.solvers.problem import make_problem

ROUNDING = 1e-9  # of the dense float64 reference, relative to the solution


@dataclass(frozen=True)
class Dense:
    """One system as plain arrays: the operator without any pull, its factored damping of strength 1, targets, start."""

    quadratic: Quadratic
    curvature: Matrix
    by_model: list[Matrix]
    factors: list[tuple[Matrix, Matrix]]
    targets: list[Matrix]
    start: Matrix
    weights: list[float]

    def damped(self, strength: float) -> Matrix:
        """Σ λ (G + s ḡ) ⊗ (A + s ā) from the factors; where one is missing, damping is an anchor."""
        if not self.factors:
            return self.curvature + strength * np.mean(np.diag(self.curvature)) * np.eye(len(self.curvature))
        total = np.zeros_like(self.curvature)
        for weight, (G, A) in zip(self.weights, self.factors, strict=True):
            G, A = (X + strength * np.mean(np.diag(X)) * np.eye(len(X)) for X in (G, A))
            total += weight * kronecker(G, A)
        return total

    def rhs(self) -> Matrix:
        """b = Σ λ C (W − x0)."""
        parts = zip(self.weights, self.by_model, self.targets, strict=True)
        return sum(weight * C @ (target - self.start).ravel() for weight, C, target in parts)


def system(seed: int, kind: str, models: int, rows: int, columns: int, rank: int, scale: float) -> Dense:
    """A random system; factors have `rank` random rows, so that many are singular."""
    random = np.random.default_rng(seed)

    def gram(size: int) -> Matrix:
        data = random.standard_normal((rank, size)) * 10.0 ** random.uniform(-1.5, 1.5, size)
        return data.T @ data / rank

    weights = [float(weight) for weight in random.uniform(0.1, 3, models)]
    targets = [random.standard_normal((rows, columns)) for _ in range(models)]
    start = random.standard_normal((rows, columns))
    G = [gram(rows) * scale for _ in range(models)]
    A = [gram(columns) for _ in range(models)]
    F = [random.uniform(0, 1, (rows, columns)) * (random.random((rows, columns)) < 0.7) * scale for _ in range(models)]
    stack = {name: torch.from_numpy(np.array(parts))[:, None] for name, parts in (("G", G), ("A", A), ("F", F))}
    quadratics: dict[str, tuple[Quadratic, list[Matrix]]] = {
        "kfac": (
            KroneckerQuadratic(stack["G"], stack["A"], weights),
            [kronecker(*pair) for pair in zip(G, A, strict=True)],
        ),
        "right": (
            KroneckerQuadratic(None, stack["A"], weights, shape=(1, rows, columns)),
            [kronecker(np.eye(rows), a) for a in A],
        ),
        "diagonal": (DiagonalQuadratic(stack["F"], weights), [np.diag(f.ravel()) for f in F]),
    }
    quadratic, by_model = quadratics[kind]
    total = sum(weight * C for weight, C in zip(weights, by_model, strict=True))
    factors = list(zip(G, A, strict=True)) if kind == "kfac" else []
    return Dense(quadratic, total, by_model, factors, targets, start, weights)


def solved(dense: Dense, **options: Any) -> tuple[Certificate, Matrix]:
    """The certificate, and Δ flattened."""
    targets = [torch.from_numpy(target)[None] for target in dense.targets]
    solution = solve_quadratic(dense.quadratic, targets, torch.from_numpy(dense.start)[None], SolverSettings(**options))
    return solution.certificates[0], (solution.value[0].numpy() - dense.start).ravel()


def energy(H: Matrix, b: Matrix, delta: Matrix) -> float:
    """½⟨Δ, HΔ⟩ − ⟨b, Δ⟩."""
    return float(0.5 * delta @ H @ delta - b @ delta)


CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**20),
        "kind": st.sampled_from(["kfac", "kfac", "kfac", "right", "diagonal"]),
        "models": st.integers(1, 4),
        "rows": st.integers(1, 5),
        "columns": st.integers(1, 6),
        "rank": st.integers(1, 8),
        "scale": st.sampled_from([1e-9, 1.0, 1e7]),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["pcg", "pcg", "cg", "auto"]),
        "anchor": st.sampled_from([0.0, 1e-3, 0.1, 2.0]),
        "damping": st.sampled_from([0.0, 1e-2, 0.1, 1.0]),
        "max_iterations": st.sampled_from([1, 2, 3, 5, 40]),
        "tolerance": st.sampled_from([0.3, 1e-3, 1e-7]),
        "precision": st.sampled_from(["float32", "float64"]),
        "cutoff": st.just(1e-10),
    }
)


@settings(max_examples=100)
@given(case=CASES, options=OPTIONS)
def test_no_bound_is_ever_violated(case: dict[str, Any], options: dict[str, Any]) -> None:
    dense = system(**case)
    certificate, delta = solved(dense, **options)
    single = 0.0 if dense.factors else options["damping"]
    mu = (options["anchor"] + single) * np.mean(np.diag(dense.damped(options["damping"] - single)))
    H = dense.damped(options["damping"] - single) + mu * np.eye(len(delta))
    b = dense.rhs()
    values, vectors = np.linalg.eigh(H)
    kept = values > 1e-10 * values[-1]
    best = vectors[:, kept] @ ((vectors[:, kept].T @ b) / values[kept])
    size = np.linalg.norm(best) + np.linalg.norm(delta)
    energies = abs(energy(H, b, best)) + abs(energy(H, b, delta))
    assert certificate.anchor == pytest.approx(mu, rel=1e-9)
    assert certificate.energy_decrease == pytest.approx(-energy(H, b, delta), rel=1e-6, abs=ROUNDING * energies)
    assert -energy(H, b, best) >= -energy(H, b, delta) - ROUNDING * energies
    assert 0 <= certificate.pull_share <= 1
    if certificate.bound in (BoundKind.NONE, BoundKind.ESTIMATED):
        assert options["anchor"] == options["damping"] == 0
        return
    error, gap = certificate.error_bound, certificate.energy_gap_bound
    assert error is not None
    assert gap is not None
    if certificate.bound is BoundKind.PROVEN:
        assert certificate.eigenvalue_bound <= values[0] * (1 + 1e-9) + 1e-12 * values[-1]
        difference = delta - best
    else:
        assert certificate.eigenvalue_bound <= values[kept][0] * (1 + 1e-9)
        difference = vectors[:, kept].T @ (delta - best)
    assert np.linalg.norm(difference) <= error * (1 + 1e-9) + ROUNDING * size
    assert energy(H, b, delta) - energy(H, b, best) <= gap * (1 + 1e-9) + ROUNDING * energies
    assert 0 <= certificate.remaining_share <= 1


def left_at(dense: Dense, delta: Matrix, strength: float, *, sharp: bool) -> tuple[Certificate, float, float, Matrix]:
    """The bounds of a solve that stopped at Δ, with the true error and gap; `sharp`: with the joint eigenbasis."""
    quadratic = DampedQuadratic(dense.quadratic, strength)  # type: ignore[arg-type]
    targets = [torch.from_numpy(target)[None] for target in (*dense.targets, dense.start)]
    problem = make_problem(quadratic, targets, torch.from_numpy(dense.start)[None], "correction")
    correction, shift = torch.from_numpy(delta.reshape(dense.start.shape))[None], torch.zeros(1, dtype=torch.float64)
    residual, losses = problem.residual(correction, shift)
    outcome = closed_form_outcome(correction, shift, residual, losses)
    basis = joint_basis(quadratic, problem.scale) if sharp else None
    H, b = dense.damped(strength), dense.rhs()
    best = np.linalg.solve(H, b)
    (certificate,) = certify(problem, len(dense.targets), outcome, basis, 1e-12, 1e-4)
    return certificate, float(np.linalg.norm(delta - best)), energy(H, b, delta) - energy(H, b, best), H


def stopped_badly(strength: float = 0.1, models: int = 3) -> tuple[Dense, Matrix]:
    """A system whose smallest eigenvalue is ν itself (no model sees the last row and column), left off along it."""
    dense = system(5, "kfac", models, 4, 5, 8, 1.0)
    for G, A in dense.factors:
        G[-1, :] = G[:, -1] = A[-1, :] = A[:, -1] = 0
    stacks = (torch.from_numpy(np.array(parts))[:, None] for parts in zip(*dense.factors, strict=True))
    by_model = [kronecker(*pair) for pair in dense.factors]
    dense = replace(dense, quadratic=KroneckerQuadratic(*stacks, dense.weights), by_model=by_model)
    vectors = np.linalg.eigh(dense.damped(strength))[1]
    best = np.linalg.solve(dense.damped(strength), dense.rhs())
    return dense, best + 0.3 * vectors[:, 0]


@pytest.mark.parametrize("sharp", [False, True])
def test_the_bound_is_reached_where_the_residual_lies_along_the_smallest_eigenvector(sharp: bool) -> None:
    dense, delta = stopped_badly()
    certificate, error, gap, H = left_at(dense, delta, 0.1, sharp=sharp)
    assert certificate.eigenvalue_bound == pytest.approx(float(np.linalg.eigvalsh(H)[0]), rel=1e-9)
    assert certificate.error_bound == pytest.approx(error, rel=1e-6)
    assert certificate.energy_gap_bound == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("sharp", [False, True])
def test_a_wrong_eigenvalue_would_be_caught(sharp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    right = mats.solvers.bounds.proven_eigenvalue
    monkeypatch.setattr(mats.solvers.bounds, "proven_eigenvalue", lambda *arguments: 1.1 * right(*arguments))
    certificate, error, gap, H = left_at(*stopped_badly(), 0.1, sharp=sharp)
    assert certificate.eigenvalue_bound > np.linalg.eigvalsh(H)[0] * 1.05
    assert certificate.error_bound < error / 1.05
    assert certificate.energy_gap_bound < gap / 1.05


def test_the_eigenbasis_sharpens_the_bound_which_stays_above() -> None:
    gains = []
    for seed in range(20):
        dense = system(seed, "kfac", 3, 5, 6, 8, 1.0)
        random = np.random.default_rng(seed)
        H = dense.damped(0.1)
        delta = np.linalg.solve(H, dense.rhs() + 1e-2 * np.linalg.norm(dense.rhs()) * random.standard_normal(len(H)))
        plain, _, gap, _ = left_at(dense, delta, 0.1, sharp=False)
        sharp, _, _, _ = left_at(dense, delta, 0.1, sharp=True)
        assert gap <= sharp.energy_gap_bound <= plain.energy_gap_bound * (1 + 1e-9)
        gains.append(plain.energy_gap_bound / sharp.energy_gap_bound)
    assert np.median(gains) > 2


def test_without_any_pull_nothing_is_proven() -> None:
    dense = system(3, "kfac", 3, 4, 5, 2, 1.0)
    certificate, _ = solved(dense, anchor=0.0, damping=0.0, max_iterations=3, tolerance=1e-9)
    assert certificate.bound in (BoundKind.NONE, BoundKind.ESTIMATED)
    assert certificate.eigenvalue_bound == 0
    assert certificate.error_bound is None
    closed, _ = solved(dense, name="direct", anchor=0.0, damping=0.0)
    assert closed.bound is BoundKind.RETAINED
    anchored, _ = solved(dense, anchor=0.1, damping=0.0, max_iterations=3, tolerance=1e-9)
    assert anchored.bound is BoundKind.PROVEN
    assert anchored.eigenvalue_bound == pytest.approx(anchored.anchor)


def test_the_pull_share_goes_from_data_to_anchor() -> None:
    dense = system(4, "kfac", 3, 4, 5, 8, 1.0)
    shares = [solved(dense, anchor=a, damping=0.0, tolerance=1e-8)[0].pull_share for a in (0.0, 1e-2, 1.0, 1e6)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] > 0.99
    damped = [solved(dense, anchor=0.0, damping=s, tolerance=1e-8)[0].pull_share for s in (0.0, 1e-2, 1.0, 1e3)]
    assert damped[0] == 0
    assert damped == sorted(damped)
    assert damped[-1] > 0.99
