"""What the preconditioner is for: few iterations, one where Σ λ C is diagonal in its basis, and an exact inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quadratic_cases import SYSTEMS, make_case, make_targets
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, solve_quadratic
from mats.solvers.basis import joint_basis
from mats.solvers.system import make_preconditioner


def layers(anchor_rows: int = 40, size: int = 40) -> tuple[KroneckerQuadratic, Tensor, Tensor]:
    """Four models that see nearly the same directions, eigenvalues falling like k^(−1.5): as real layers do."""
    generator = torch.Generator().manual_seed(3)

    def grams() -> Tensor:
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        spread = torch.arange(1, size + 1) ** -0.75
        rows = torch.randn(4, 1, anchor_rows, size, generator=generator) * spread @ basis
        return rows.mT @ rows

    start = torch.randn(1, size, size, generator=generator)
    return (
        KroneckerQuadratic(grams(), grams()),
        start + 0.01 * torch.randn(4, 1, size, size, generator=generator),
        start,
    )


@pytest.mark.parametrize("anchor", [1e-3, 0.1])
def test_several_times_fewer_iterations(anchor: float) -> None:
    quadratic, targets, start = layers()
    counts = {}
    for solver in ("cg", "pcg"):
        settings = SolverSettings(name=solver, anchor=anchor, max_iterations=3000)  # type: ignore[arg-type]
        solution = solve_quadratic(quadratic, targets, start, settings)
        assert solution.solved
        counts[solver] = solution.certificates[0].iterations
    assert counts["pcg"] < counts["cg"] / 4, counts
    assert counts["pcg"] <= 40


@pytest.mark.parametrize(
    "name", ["average", "diagonal_fisher", "regmean", "left_alone", "both_diagonal", "tied_embedding"]
)
def test_one_iteration_where_the_basis_is_exact(name: str) -> None:
    case = make_case(name)
    targets, start = make_targets(case)
    solution = solve_quadratic(case.quadratic, targets, start, SolverSettings(precision="float64", tolerance=1e-10))
    assert [c.iterations for c in solution.certificates] == [1] * SYSTEMS


@pytest.mark.parametrize("name", ["kfac", "diagonal_left", "tied_kfac", "kfac_and_diagonal"])
def test_same_trace_as_the_operator(name: str) -> None:
    case = make_case(name)
    scale = case.quadratic.mean_diagonal()
    basis = joint_basis(case.quadratic, scale)
    for system in range(SYSTEMS):
        trace = float(basis.curvature[system].sum() * scale[system])
        assert trace == pytest.approx(np.trace(case.total(system)), rel=1e-10)


def test_inverse_of_product_plus_shift() -> None:
    """(M + νI)⁻¹ (M + νI) X = X with M written out densely; without ν it is another operator (the control)."""
    case = make_case("kfac")
    quadratic = case.quadratic
    scale = quadratic.mean_diagonal()
    basis, sums = joint_basis(quadratic, scale), quadratic.factor_sums()
    assert sums.left is not None
    assert sums.right is not None
    assert sums.product_scale is not None
    shift = torch.tensor([0.3, 0.01], dtype=torch.float64)
    X = torch.randn(quadratic.shape, dtype=torch.float64)
    M = (sums.product_scale / scale)[:, None, None] * (sums.left @ X @ sums.right)
    forward = M + shift[:, None, None] * X
    anchored = make_preconditioner(basis, shift, 1e-12)
    torch.testing.assert_close(anchored.apply(forward), X, rtol=1e-8, atol=1e-9)
    without = make_preconditioner(basis, 0 * shift, 1e-12)
    torch.testing.assert_close(without.apply(M), X, rtol=1e-7, atol=1e-8)
    assert (without.apply(forward) - X).norm() > 0.1 * X.norm()
