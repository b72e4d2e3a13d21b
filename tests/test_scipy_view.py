"""The SciPy view is the same operator, system by system."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from oracles import kronecker
from quadratic_cases import CASES, SYSTEMS, make_case
from scipy.sparse.linalg import cg, eigsh

import mats.scipy_view
from mats import MergeProblem, solve
from mats.errors import RequestError, ShapeMismatch
from mats.scipy_view import linear_operator, right_hand_side, scipy_system


@pytest.mark.parametrize("name", sorted(CASES))
def test_matrix(name: str, device: str) -> None:
    case = make_case(name)
    for system in range(SYSTEMS):
        operator = linear_operator(case.quadratic.to(device), system=system, shift=0.25)
        size = operator.shape[0]
        dense = case.total(system) + 0.25 * np.eye(size)
        np.testing.assert_allclose(operator @ np.eye(size), dense, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(operator.rmatvec(np.arange(size)), dense.T @ np.arange(size), rtol=1e-10, atol=1e-9)


def test_scipy_can_use_it() -> None:
    case = make_case("kfac")
    largest = eigsh(linear_operator(case.quadratic), k=1, return_eigenvectors=False)[0]
    assert largest == pytest.approx(np.linalg.eigvalsh(case.total(0))[-1])


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.bfloat16, np.float32), (torch.float32, np.float32), (torch.float64, np.float64)]
)
def test_dtype(dtype: torch.dtype, kind: type) -> None:
    operator = linear_operator(make_case("regmean").quadratic.to(dtype=dtype))
    assert operator.dtype == kind
    assert (operator @ np.ones(operator.shape[0])).dtype == kind


def test_no_such_system() -> None:
    with pytest.raises(RequestError, match=r"system 2 of a quadratic of 2; expected 0 to 1"):
        linear_operator(make_case("kfac").quadratic, system=2)


def test_docstring_runs() -> None:
    assert doctest.testmod(mats.scipy_view).failed == 0


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize(("anchor", "damping"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.1, 0.3)])
def test_with_the_pulls_of_a_solve(name: str, anchor: float, damping: float) -> None:
    case = make_case(name)
    by_model = {"kfac_by_model": "kfac", "embedding_by_model": "diagonal_right"}  # these show no factors themselves
    factors = name in ("kfac", "both_diagonal", "diagonal_left", "diagonal_right", *by_model)
    whole = make_case(by_model.get(name, name)).quadratic
    for system in range(SYSTEMS):
        dense = case.total(system)
        size, single = len(dense), damping
        if factors:
            single = 0.0
            dense = dense * 0
            stacks = whole.left, whole.right  # type: ignore[attr-defined]
            for model, weight in enumerate(case.quadratic.weights):
                G, A = (_full(stack[model, system].double().numpy(), damping) for stack in stacks)
                dense = dense + weight * kronecker(G, A)
        dense = dense + (anchor + single) * np.mean(np.diag(dense)) * np.eye(size)
        operator = linear_operator(case.quadratic, system=system, anchor=anchor, damping=damping)
        block = np.random.default_rng(0).standard_normal((size, 3))
        np.testing.assert_allclose(operator.matmat(block), dense @ block, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(operator.matvec(block[:, 0]), dense @ block[:, 0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(operator.rmatvec(block[:, 0]), dense.T @ block[:, 0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(operator.T @ block[:, 1], dense @ block[:, 1], rtol=1e-9, atol=1e-9)
        assert np.abs(operator.matmat(block) - case.total(system) @ block).max() > 1e-3 or anchor == damping == 0


def _full(factor: np.ndarray, strength: float) -> np.ndarray:
    matrix = factor if factor.ndim == 2 else np.diag(factor)
    return matrix + strength * np.mean(np.diag(matrix)) * np.eye(len(matrix))


def test_a_problem_solved_by_scipy_is_the_problem_solved_by_mats() -> None:
    case = make_case("kfac")
    targets = [torch.randn(case.quadratic.shape, dtype=torch.float64) for _ in case.dense]
    start = torch.randn(case.quadratic.shape, dtype=torch.float64)
    problem = MergeProblem.from_tensors(targets, quadratic=case.quadratic, start=start, names=["first", "second"])
    result = solve(problem, tol=1e-12, precision="float64", max_iterations=2000)
    for position, name in enumerate(problem.names):
        system = scipy_system(problem, name)
        weights = case.quadratic.weights
        parts = zip(weights, case.dense, targets, strict=True)
        rhs = sum(w * C[position] @ (W[position] - start[position]).numpy().ravel() for w, C, W in parts)
        np.testing.assert_allclose(system.rhs, rhs, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(right_hand_side(case.quadratic, targets, start, system=position), rhs, atol=1e-10)
        solution, failed = cg(system.operator, system.rhs, rtol=1e-13, maxiter=5000)
        assert failed == 0
        torch.testing.assert_close(system.value(solution), result.values[name], rtol=1e-7, atol=1e-9)


def test_faults_name_what_was_given() -> None:
    quadratic = make_case("kfac").quadratic
    with pytest.raises(RequestError, match=r"anchor is -1; expected a number at least 0"):
        linear_operator(quadratic, anchor=-1)
    with pytest.raises(RequestError, match=r"damping is nan; expected"):
        linear_operator(quadratic, damping=float("nan"))
    problem = MergeProblem.from_tensors([torch.ones(2, 3)] * 2, input_grams=[torch.eye(3)] * 2)
    with pytest.raises(RequestError, match=r"system 'x': the problem has system 0; expected one of its names"):
        scipy_system(problem, "x")
    with pytest.raises(ShapeMismatch, match="2 targets for 3 models"):
        right_hand_side(quadratic, [torch.ones(quadratic.shape)] * 2, torch.ones(quadratic.shape))
