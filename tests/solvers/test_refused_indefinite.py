"""Bad input is refused before anything is solved, with the index and the number that show it, by every solver."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics import KroneckerQuadratic
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
