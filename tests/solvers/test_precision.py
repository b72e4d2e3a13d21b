"""Each precision truly reaches the tolerance it is given, and leaves torch's switches as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, StopReason, solve_quadratic
from mats.solvers.precision import float32_products
from mats.solvers.settings import PRECISIONS


def decaying(decay: float, size: int = 48, device: str = "cpu") -> tuple[KroneckerQuadratic, Tensor, Tensor]:
    """Two systems of four K-FAC models whose eigenvalues fall like k^(−decay)."""
    generator = torch.Generator().manual_seed(0)

    def factors() -> Tensor:
        basis = torch.linalg.qr(torch.randn(4, 2, size, size, generator=generator, dtype=torch.float64))[0]
        spectrum = torch.arange(1, size + 1, dtype=torch.float64) ** -decay
        return ((basis * spectrum) @ basis.mT).float().to(device)

    quadratic = KroneckerQuadratic(factors(), factors())
    start = torch.randn(2, size, size, generator=generator)
    targets = start + 0.01 * torch.randn(4, 2, size, size, generator=generator)
    return quadratic, targets.to(device), start.to(device)


@pytest.mark.parametrize("decay", [0.5, 1.5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_true_residual_within_tolerance(precision: str, decay: float, device: str) -> None:
    quadratic, targets, start = decaying(decay, device=device)
    for tolerance in (1e-4, 1e-6):
        settings = SolverSettings(tolerance=tolerance, precision=precision, max_iterations=2000)  # type: ignore[arg-type]
        solution = solve_quadratic(quadratic, targets, start, settings)
        gradient, _ = quadratic.to(dtype=torch.float64).evaluate(targets.double(), _value(solution.value))
        for system, certificate in enumerate(solution.certificates):
            assert certificate.stop_reason is StopReason.CONVERGED, certificate
            assert certificate.relative_residual <= 1.01 * tolerance
            move = _value(solution.value)[system] - start[system].double()
            residual = gradient[system] + certificate.anchor * move
            b = quadratic.to(dtype=torch.float64).rhs(targets.double(), start.double())[system]
            # Rounding x0 + Δ to float32 adds its own share; the certificate is of Δ before it.
            assert float(residual.norm() / b.norm()) < 1.1 * tolerance + 1e-4


def _value(value: Tensor) -> Tensor:
    return value.double()


def test_refinement_is_what_reaches_it() -> None:
    """The control: one bfloat16 run alone stays at its floor, far above the tolerance."""
    from mats.solvers.basis import joint_basis
    from mats.solvers.conjugate import Limits, conjugate_gradients
    from mats.solvers.problem import make_problem, norms
    from mats.solvers.system import make_preconditioner, make_system

    quadratic, targets, start = decaying(1.0)
    problem = make_problem(quadratic, list(targets), start, "correction")
    shift = torch.full((2,), 0.1, dtype=torch.float64)
    system = make_system(quadratic.to(dtype=torch.bfloat16), problem.scale, shift, torch.float32)
    basis = joint_basis(quadratic, problem.scale).to(torch.float32)
    b = (problem.rhs / problem.rhs_norm[:, None, None]).float()
    limits = Limits(torch.full((2,), 1e-6), torch.full((2,), 300))
    found = conjugate_gradients(system, b, make_preconditioner(basis, shift, 1e-6), limits)
    correction = found.X.double() * problem.unit[:, None, None]
    residual = norms(problem.residual(correction, shift)[0]) / problem.rhs_norm
    assert bool((residual > 1e-4).all())


def test_tolerance_beyond_float32_is_reached_by_refinement() -> None:
    quadratic, targets, start = decaying(0.5)
    wide = solve_quadratic(quadratic, targets, start, SolverSettings(tolerance=1e-9, max_iterations=2000))
    assert wide.solved
    alone = solve_quadratic(
        quadratic, targets, start, SolverSettings(tolerance=1e-9, max_iterations=2000, refinements=0)
    )
    assert not alone.solved
    assert {c.stop_reason for c in alone.certificates} == {StopReason.STAGNATED}


def fail_inside() -> None:
    with float32_products(tensor_float=False):
        assert torch.get_float32_matmul_precision() == "highest"
        _ = 1 / 0


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_the_switch_is_put_back(before: str) -> None:
    kept = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        quadratic, targets, start = decaying(0.5, size=6)
        solve_quadratic(quadratic, targets, start)
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(ZeroDivisionError, match="division"):
            fail_inside()
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(kept)


def test_values_are_as_wide_as_asked() -> None:
    quadratic, targets, start = decaying(0.5, size=6)
    assert solve_quadratic(quadratic, targets, start).value.dtype == torch.float32
    assert solve_quadratic(quadratic, targets, start, SolverSettings(precision="float64")).value.dtype == torch.float64
    assert solve_quadratic(quadratic, targets.double(), start).value.dtype == torch.float64
