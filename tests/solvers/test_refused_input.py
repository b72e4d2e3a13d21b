"""Bad input is refused before anything is solved, with the index and the number that show it, by every solver."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mats.errors import NonFiniteStatistic, NonFiniteWeights, RequestError, ShapeMismatch
from mats.quadratics import DiagonalQuadratic, KroneckerQuadratic
from mats.solvers import SolverSettings, solve_quadratic

by_solver = pytest.mark.parametrize("solver", ["cg", "pcg", "direct", "auto"])


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left [2, 2, 3, 3] and right [2, 2, 4, 4] factors, targets, start."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, 2, 9, size, generator=generator) for size in (3, 4))
    return (
        left.mT @ left,
        right.mT @ right,
        torch.randn(2, 2, 3, 4, generator=generator),
        torch.randn(2, 3, 4, generator=generator),
    )


def refused(solver: str, left: Tensor, right: Tensor, targets: Tensor, start: Tensor) -> None:
    solve_quadratic(KroneckerQuadratic(left, right), targets, start, SolverSettings(name=solver))  # type: ignore[arg-type]


@by_solver
def test_asymmetric(solver: str) -> None:
    left, right, targets, start = parts()
    right[1, 0, 2, 3] += 5.0
    wanted = rf"right factor of model 1, system 0: entry \(2, 3\) is {float(right[1, 0, 2, 3]):.6g}"
    with pytest.raises(RequestError, match=wanted):
        refused(solver, left, right, targets, start)


@by_solver
def test_a_negative_diagonal(solver: str) -> None:
    left, right, targets, start = parts()
    left[0, 1, 2, 2] = -3.5
    with pytest.raises(RequestError, match=r"left factor of model 0, system 1: diagonal entry \(2,\) is -3.5"):
        refused(solver, left, right, targets, start)


@by_solver
def test_an_indefinite_sum(solver: str) -> None:
    left, right, targets, start = parts()
    left[:, 1] = torch.tensor([[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(RequestError, match=r"left factor.* system 1.* eigenvalue -"):
        refused(solver, left, right, targets, start)


@by_solver
def test_one_indefinite_model_in_a_sum_that_is_not(solver: str) -> None:
    left, right, targets, start = parts()
    left[1, 0] = torch.tensor([[1.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(RequestError, match=r"left factor of model 1, system 0.* eigenvalue -0\.2"):
        refused(solver, left, right, targets, start)


@by_solver
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_statistics_that_are_not_finite(solver: str, bad: float) -> None:
    left, right, targets, start = parts()
    right[1, 1, 0, 2] = bad
    with pytest.raises(
        NonFiniteStatistic, match=r"right factor of model 1, system 1: entry \(0, 2\) is (nan|inf|-inf)"
    ):
        refused(solver, left, right, targets, start)


@by_solver
def test_targets_that_are_not_finite(solver: str) -> None:
    left, right, targets, start = parts()
    targets[1, 0, 2, 3] = float("nan")
    with pytest.raises(NonFiniteWeights, match=r"target 1: entry \(0, 2, 3\) is nan"):
        refused(solver, left, right, targets, start)


@by_solver
def test_one_target_too_few(solver: str) -> None:
    left, right, targets, start = parts()
    with pytest.raises(ShapeMismatch, match="1 targets for 2 models"):
        refused(solver, left, right, targets[:1], start)


@by_solver
def test_a_target_of_another_shape(solver: str) -> None:
    left, right, targets, start = parts()
    with pytest.raises(ShapeMismatch, match=r"target 0 has shape \(2, 4, 3\); expected \(2, 3, 4\)"):
        refused(solver, left, right, targets.mT, start)


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_weights_that_cannot_be(weight: float) -> None:
    left, right, *_ = parts()
    with pytest.raises(RequestError, match=rf"model weight 1 is {weight}"):
        KroneckerQuadratic(left, right, [1.0, weight])


def test_factors_on_two_devices() -> None:
    left, right, *_ = parts()
    with pytest.raises(RequestError, match="left factors is on cpu, right factors on meta"):
        KroneckerQuadratic(left, right.to("meta"))


def test_a_negative_fisher() -> None:
    fisher = torch.ones(2, 1, 3, 4)
    fisher[1, 0, 2, 1] = -0.25
    with pytest.raises(RequestError, match=r"model 1, system 0: .* is -0\.25"):
        solve_quadratic(DiagonalQuadratic(fisher), torch.ones(2, 1, 3, 4), torch.zeros(1, 3, 4), SolverSettings())
