"""Closed forms: which problems have one, and that singular ones stay nearest to the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Matrix, anchored_merge, kronecker, null_share
from quadratic_cases import make_case, make_targets

from mats.errors import RequestError
from mats.quadratics import DiagonalQuadratic, IdentityQuadratic, KroneckerQuadratic
from mats.solvers import Solution, SolverSettings, StopReason, solve_quadratic
from mats.solvers.pair import diagonalise_together

EXACT = SolverSettings(name="direct", anchor=0.0)


def projected(rows: int, size: int, generator: np.random.Generator, columns: slice = slice(None)) -> Matrix:
    """A Gram matrix of few rows that live on some columns only."""
    data = np.zeros((rows, size))
    data[:, columns] = generator.standard_normal((rows, data[:, columns].shape[1]))
    return data.T @ data


def solve_two(G: list[Matrix], A: list[Matrix], seed: int = 0, weights: tuple[float, float] = (1.0, 2.0)) -> None:
    """Solve exactly and compare with the shortest least-squares correction."""
    generator = np.random.default_rng(seed)
    shape = (len(G[0]), len(A[0]))
    targets = [generator.standard_normal(shape) for _ in range(2)]
    start = generator.standard_normal(shape)
    stacks = [torch.from_numpy(np.array(side))[:, None] for side in (G, A)]
    quadratic = KroneckerQuadratic(stacks[0], stacks[1], weights)
    limited = SolverSettings(name="direct", anchor=0.0, dense_limit=1)
    solution = solve_quadratic(
        quadratic, [torch.from_numpy(t)[None] for t in targets], torch.from_numpy(start)[None], limited
    )
    curvatures = [kronecker(g, a) for g, a in zip(G, A, strict=True)]
    expected = anchored_merge(curvatures, targets, start, weights, 0.0)
    scale = max(np.linalg.norm(expected - start), 1e-12)
    assert np.linalg.norm(solution.value[0].numpy() - expected) < 1e-5 * scale
    move = solution.value[0].numpy() - start
    if np.linalg.norm(move) > 0:
        total = sum(w * C for w, C in zip(weights, curvatures, strict=True))
        assert null_share(total, move) < 1e-9


@pytest.mark.parametrize("rank_left", [1, 3, 6, 20])
@pytest.mark.parametrize("rank_right", [1, 4, 7, 20])
def test_two_models_exactly(rank_left: int, rank_right: int) -> None:
    generator = np.random.default_rng(rank_left * 100 + rank_right)
    G = [projected(rank_left, 6, generator) for _ in range(2)]
    A = [projected(rank_right, 7, generator) for _ in range(2)]
    solve_two(G, A)


def test_two_models_whose_sight_overlaps_obliquely() -> None:
    """Rows only one model sees, columns only the other sees: two null subspaces that are not orthogonal."""
    generator = np.random.default_rng(5)
    G = [projected(3, 7, generator, slice(0, 5)), projected(4, 7, generator, slice(2, 7))]
    A = [projected(4, 6, generator, slice(0, 5)), projected(3, 6, generator, slice(1, 6))]
    solve_two(G, A)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_two_models_of_different_scale(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    G = [projected(9, 5, generator) * scale, projected(4, 5, generator)]
    A = [projected(9, 6, generator), projected(5, 6, generator) * scale]
    solve_two(G, A, seed)


@pytest.mark.parametrize("absent", ["left", "right", "weight"])
def test_one_of_two_models_contributes_nothing(absent: str) -> None:
    generator = np.random.default_rng(3)
    G, A = [projected(2, 4, generator) for _ in range(2)], [projected(2, 5, generator) for _ in range(2)]
    if absent == "left":
        G[1] = 0 * G[1]
    elif absent == "right":
        A[0] = 0 * A[0]
    solve_two(G, A, weights=(1.0, 0.0) if absent == "weight" else (1.0, 2.0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), first=st.integers(0, 6), second=st.integers(0, 6))
def test_diagonalised_together(seed: int, first: int, second: int) -> None:
    generator = np.random.default_rng(seed)
    X, Y = projected(first, 5, generator), projected(second, 5, generator)
    shared = diagonalise_together(torch.from_numpy(X), torch.from_numpy(Y), 1e-12)
    T, theta = shared.transform.numpy(), shared.share.numpy()
    assert T.shape[1] == np.linalg.matrix_rank(X + Y, tol=1e-9)
    np.testing.assert_allclose(T.T @ X @ T, shared.traces[0] * np.diag(theta), atol=1e-6 * max(shared.traces[0], 1e-9))
    np.testing.assert_allclose(
        T.T @ Y @ T, shared.traces[1] * np.diag(1 - theta), atol=1e-6 * max(shared.traces[1], 1e-9)
    )


def test_average_and_fisher_by_hand() -> None:
    targets = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])
    start = torch.zeros(1, 1, 2)
    average = IdentityQuadratic([1.0, 3.0], (1, 1, 2))
    fisher = DiagonalQuadratic(torch.tensor([[[[1.0, 0.0]]], [[[3.0, 0.0]]]]))
    for solver in ("direct", "cg", "pcg", "auto"):
        options = SolverSettings(name=solver, anchor=0.0, tolerance=1e-7)  # type: ignore[arg-type]
        assert solve_quadratic(average, targets, start, options).value.tolist() == [
            [[pytest.approx(2.5), pytest.approx(5.0)]]
        ]
        merged = solve_quadratic(fisher, targets, start + 9.0, options).value.tolist()
        assert merged == [[[pytest.approx(2.5), pytest.approx(9.0)]]]  # unseen: stays at the start


def test_rank_deficient_float32_gram_leaves_no_noise() -> None:
    """solver.md's trap: fp32 Cholesky 'succeeds' on rank 64 of 256, and nearly all it returns is null-space noise."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 32, 256, generator=generator)
    grams = (rows.mT @ rows)[:, None]
    targets = torch.randn(2, 1, 8, 256, generator=generator)
    start = targets.mean(dim=0)
    solution = solve_quadratic(KroneckerQuadratic(None, grams, shape=(1, 8, 256)), targets, start, EXACT)
    span = torch.linalg.qr(rows.double().reshape(64, 256).T)[0]
    move = (solution.value - start)[0].double()
    assert float((move - move @ span @ span.T).norm() / move.norm()) < 1e-5
    certificate = solution.certificates[0]
    assert certificate.null_share == pytest.approx(0.0, abs=1e-10)
    assert certificate.relative_residual < 1e-5
    total = grams.sum(dim=0)[0]
    damped = total + 1e-6 * total.diagonal().mean() * torch.eye(256)
    rhs = ((targets - start) @ grams).sum(dim=0)[0]
    noisy = torch.cholesky_solve(rhs.mT, torch.linalg.cholesky(damped)).mT
    outside = noisy.double() - noisy.double() @ span @ span.T
    assert float(outside.norm()) > 1e-3 * float(noisy.norm())


def test_auto_takes_the_closed_form_where_there_is_one() -> None:
    reasons = {}
    for name in ("average", "diagonal_fisher", "regmean", "tied_embedding", "kfac"):
        case = make_case(name)
        targets, start = make_targets(case)
        solution = solve_quadratic(case.quadratic, targets, start, SolverSettings(name="auto"))
        reasons[name] = solution.certificates[0].stop_reason
    assert set(reasons.values()) == {StopReason.CLOSED_FORM}  # this K-FAC case is small enough for its matrix
    assert big_pair(anchor=0.1).certificates[0].stop_reason is StopReason.CONVERGED
    assert big_pair(anchor=0.0).certificates[0].stop_reason is StopReason.CLOSED_FORM


def big_pair(anchor: float) -> Solution:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(4, 1, 80, 40, generator=generator)
    grams = rows.mT @ rows
    targets = torch.randn(2, 1, 40, 40, generator=generator)
    quadratic = KroneckerQuadratic(grams[:2], grams[2:])
    return solve_quadratic(quadratic, targets, targets.mean(dim=0), SolverSettings(name="auto", anchor=anchor))


def test_direct_is_refused_where_there_is_no_closed_form() -> None:
    rows = torch.randn(3, 1, 80, 40)
    grams, targets = rows.mT @ rows, torch.randn(3, 1, 40, 40)
    with pytest.raises(RequestError, match=r"solver direct has no closed form for 3 models of shape \(40, 40\)"):
        solve_quadratic(KroneckerQuadratic(grams, grams), targets, targets[0], SolverSettings(name="direct"))
