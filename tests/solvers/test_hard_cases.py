"""Numbers that break naive solvers: scales, ranks, copies, opposites, empties. NaN never comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import anchor_strength, anchored_merge, kronecker
from quadratic_cases import make_case, make_targets
from torch import Tensor

from mats.errors import NonFiniteStatistic, NonFiniteWeights, RequestError, ShapeMismatch
from mats.quadratics import DiagonalQuadratic, KroneckerQuadratic
from mats.solvers import SolverSettings, solve_quadratic

SOLVERS = ("pcg", "cg", "direct")
by_solver = pytest.mark.parametrize("solver", SOLVERS)


def kfac(rows_left: Tensor, rows_right: Tensor) -> KroneckerQuadratic:
    """K-FAC from rows [m, L, T, n]."""
    return KroneckerQuadratic(rows_left.mT @ rows_left, rows_right.mT @ rows_right)


def check(quadratic: KroneckerQuadratic, targets: Tensor, start: Tensor, solver: str, anchor: float = 0.1) -> None:
    """Finite, certified, and (anchored) the dense answer."""
    settings = SolverSettings(name=solver, anchor=anchor, tolerance=1e-6, max_iterations=3000)  # type: ignore[arg-type]
    solution = solve_quadratic(quadratic, targets, start, settings)
    assert bool(solution.value.isfinite().all())
    assert solution.solved, solution.certificates
    assert quadratic.left is not None
    assert quadratic.right is not None
    for system in range(quadratic.shape[0]):
        curvatures = [
            kronecker(quadratic.left[i, system].double().numpy(), quadratic.right[i, system].double().numpy())
            for i in range(quadratic.models)
        ]
        mu = anchor_strength(curvatures, quadratic.weights, anchor)
        scale = float(targets.double().norm())
        arrays = [t[system].double().numpy() / scale for t in targets]
        x0 = start[system].double().numpy()
        size = max(np.trace(C) for C in curvatures) or 1.0
        expected = anchored_merge([C / size for C in curvatures], arrays, x0 / scale, quadratic.weights, mu / size)
        move = np.linalg.norm(expected - x0 / scale)
        error = np.linalg.norm(solution.value[system].double().numpy() / scale - expected)
        assert error <= 2e-3 * move + 1e-6


@by_solver
@pytest.mark.parametrize("weights", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("left", "right"), [(1e-12, 1.0), (1e-12, 1e-12), (1e6, 1e-12), (1e12, 1e12), (1.0, 1.0)])
def test_any_scale(left: float, right: float, weights: float, solver: str, device: str) -> None:
    """The solution does not know in what unit statistics and weights are measured."""
    generator = torch.Generator().manual_seed(0)
    G, A = (torch.randn(3, 2, 12, size, generator=generator) for size in (4, 5))
    G, A = G.mT @ G, A.mT @ A
    targets = torch.randn(3, 2, 4, 5, generator=generator)
    start = targets.mean(dim=0)
    settings = SolverSettings(name=solver, tolerance=1e-6)  # type: ignore[arg-type]
    plain = solve_quadratic(KroneckerQuadratic(G, A), targets, start, settings)
    scaled = solve_quadratic(
        KroneckerQuadratic((left * G).to(device), (right * A).to(device)),
        (weights * targets).to(device),
        (weights * start).to(device),
        settings,
    )
    assert scaled.solved
    torch.testing.assert_close(scaled.value.cpu() / weights, plain.value, rtol=1e-3, atol=1e-4)


@by_solver
def test_rank_one(solver: str) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(3, 2, 1, size, generator=generator) for size in (4, 5))
    targets = torch.randn(3, 2, 4, 5, generator=generator)
    check(kfac(left, right), targets, targets.mean(dim=0), solver)


@by_solver
def test_models_that_saw_nothing(solver: str) -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(3, 2, 9, size, generator=generator) for size in (4, 5))
    left[1], right[2] = 0.0, 0.0
    targets = torch.randn(3, 2, 4, 5, generator=generator)
    check(kfac(left, right), targets, targets.mean(dim=0), solver)


@by_solver
@pytest.mark.parametrize("anchor", [0.0, 0.1])
def test_no_model_saw_anything(solver: str, anchor: float) -> None:
    quadratic = KroneckerQuadratic(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 4, 4))
    targets = torch.randn(2, 1, 3, 4)
    start = targets.mean(dim=0)
    settings = SolverSettings(name=solver, anchor=anchor)  # type: ignore[arg-type]
    assert torch.equal(solve_quadratic(quadratic, targets, start, settings).value, start)


@by_solver
def test_one_empty_system_beside_a_full_one(solver: str) -> None:
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.randn(2, 2, 9, size, generator=generator) for size in (4, 5))
    left[:, 0] = 0.0
    targets = torch.randn(2, 2, 4, 5, generator=generator)
    start = targets.mean(dim=0)
    check(kfac(left, right), targets, start, solver)
    solution = solve_quadratic(kfac(left, right), targets, start, SolverSettings(name=solver))  # type: ignore[arg-type]
    assert torch.equal(solution.value[0], start[0])


@by_solver
def test_a_model_twice_is_a_weight_of_two(solver: str) -> None:
    generator = torch.Generator().manual_seed(4)
    left, right = (torch.randn(2, 1, 9, size, generator=generator) for size in (4, 5))
    targets = torch.randn(2, 1, 4, 5, generator=generator)
    start = targets.mean(dim=0)
    single = kfac(left, right)
    index = torch.tensor([0, 1, 1])
    assert single.left is not None
    assert single.right is not None
    twice = KroneckerQuadratic(single.left[index], single.right[index])
    weighted = KroneckerQuadratic(single.left, single.right, [1.0, 2.0])
    settings = SolverSettings(name=solver, tolerance=1e-7, precision="float64")  # type: ignore[arg-type]
    one = solve_quadratic(twice, targets[index], start, settings).value
    other = solve_quadratic(weighted, targets, start, settings).value
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@by_solver
def test_nearly_opposite_models(solver: str) -> None:
    """Task vectors that almost cancel: the right-hand side is tiny beside the weights."""
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(1, 1, 9, size, generator=generator) for size in (4, 5))
    start = 100 * torch.randn(1, 4, 5, generator=generator)
    task = torch.randn(1, 4, 5, generator=generator)
    targets = torch.stack([start + task, start - task + 1e-4 * torch.randn(1, 4, 5, generator=generator)])
    quadratic = kfac(left.repeat(2, 1, 1, 1), right.repeat(2, 1, 1, 1))
    solution = solve_quadratic(quadratic, targets, start, SolverSettings(name=solver))  # type: ignore[arg-type]
    assert solution.solved
    assert solution.certificates[0].movement < 1e-3


@by_solver
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (3, 7, 1)])
def test_thin_systems(solver: str, shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(6)
    systems, rows, columns = shape
    left, right = (torch.randn(2, systems, 3, size, generator=generator) for size in (rows, columns))
    targets = torch.randn(2, *shape, generator=generator)
    check(kfac(left, right), targets, targets.mean(dim=0), solver)


@by_solver
def test_one_model_is_its_own_merge(solver: str) -> None:
    generator = torch.Generator().manual_seed(7)
    left, right = (torch.randn(1, 1, 9, size, generator=generator) for size in (4, 5))
    targets = torch.randn(1, 1, 4, 5, generator=generator)
    settings = SolverSettings(name=solver, anchor=0.0, tolerance=1e-7, max_iterations=2000)  # type: ignore[arg-type]
    solution = solve_quadratic(kfac(left, right), targets, torch.zeros(1, 4, 5), settings)
    torch.testing.assert_close(solution.value, targets[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    case = make_case("kfac")
    targets, start = make_targets(case)
    stored = [target.to(dtype) for target in targets]
    solution = solve_quadratic(case.quadratic.to(dtype=torch.float32), stored, start, SolverSettings())
    reference = solve_quadratic(case.quadratic, [t.double() for t in stored], start, SolverSettings(tolerance=1e-8))
    torch.testing.assert_close(solution.value.double(), reference.value, rtol=1e-2, atol=1e-3)
    assert solution.value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_stored_narrow(dtype: torch.dtype) -> None:
    case = make_case("regmean")
    targets, start = make_targets(case)
    narrow = case.quadratic.to(dtype=dtype)
    solution = solve_quadratic(narrow, targets, start, SolverSettings())
    same = solve_quadratic(narrow.to(dtype=torch.float64), targets, start, SolverSettings(tolerance=1e-8))
    assert solution.solved
    torch.testing.assert_close(solution.value, same.value, rtol=1e-3, atol=1e-3)


@by_solver
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs_are_refused(solver: str, bad: float) -> None:
    case = make_case("kfac")
    targets, start = make_targets(case)
    settings = SolverSettings(name=solver)  # type: ignore[arg-type]
    targets[1][1, 2, 3] = bad
    with pytest.raises(NonFiniteWeights, match=r"target 1: entry \(1, 2, 3\) is (nan|inf)"):
        solve_quadratic(case.quadratic, targets, start, settings)
    targets[1][1, 2, 3] = 0.0
    start[0, 1, 1] = bad
    with pytest.raises(NonFiniteWeights, match=r"start: entry \(0, 1, 1\) is (nan|inf)"):
        solve_quadratic(case.quadratic, targets, start, settings)


def test_overflow_is_refused_not_returned() -> None:
    fisher = DiagonalQuadratic(torch.full((1, 1, 2, 2), 1e300, dtype=torch.float64))
    targets = torch.full((1, 1, 2, 2), 1e20, dtype=torch.float64)
    with pytest.raises(
        NonFiniteStatistic, match=r"right-hand side Σ λ C \(W − x0\), in float64: entry \(0, 0, 0\) is inf"
    ):
        solve_quadratic(fisher, targets, 0 * targets[0])


def test_indefinite_sum_is_refused() -> None:
    indefinite = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).reshape(1, 1, 2, 2)
    quadratic = KroneckerQuadratic(None, indefinite, shape=(1, 2, 2))
    with pytest.raises(RequestError, match=r"right factors of system 0: their sum has the eigenvalue -2 beside 4"):
        solve_quadratic(quadratic, torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2), SolverSettings(validate=False))


def test_start_of_another_shape() -> None:
    case = make_case("kfac")
    targets, start = make_targets(case)
    with pytest.raises(ShapeMismatch, match=r"start has shape \(2, 5, 4\); expected \(2, 4, 5\)"):
        solve_quadratic(case.quadratic, targets, start.mT)


@pytest.mark.parametrize("name", ["kfac", "regmean", "diagonal_fisher", "average", "tied_kfac", "left_alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_leave_as_they_came(name: str, dtype: torch.dtype) -> None:
    case = make_case(name)
    quadratic = case.quadratic.to(dtype=dtype)
    targets, start = make_targets(case)
    targets, start = [t.to(dtype) for t in targets], start.to(dtype)
    probe = torch.randn(quadratic.shape, dtype=dtype)
    before = [t.clone() for t in (*targets, start)]
    products = [quadratic.apply_model(i, probe) for i in range(3)]
    for solver in (*SOLVERS, "auto"):
        for anchor, radius in ((0.0, None), (0.1, None), (0.0, 0.3)):
            settings = SolverSettings(name=solver, anchor=anchor, radius=radius)  # type: ignore[arg-type]
            solve_quadratic(quadratic, targets, start, settings)
    assert all(torch.equal(a, b) for a, b in zip(before, (*targets, start), strict=True))
    assert all(torch.equal(a, quadratic.apply_model(i, probe)) for i, a in enumerate(products))
