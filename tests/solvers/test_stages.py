"""Without anchor and damping: which coordinates move, in which arithmetic, and that the tolerance is reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mats.solvers.iterative
from mats.quadratics import KroneckerQuadratic
from mats.solvers import Certificate, SolverSettings, StopReason, solve_quadratic
from mats.solvers.stages import plan_stages

SIZE, MODELS = 24, 3
FREE = SolverSettings(anchor=0.0, tolerance=1e-4, max_iterations=1000)


def normalised_grams(noise: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> KroneckerQuadratic:
    """Inputs that a LayerNorm made: their Gram is singular in a direction that differs a little between the models.

    `noise` is added to that eigenvalue, relative to the largest: the rounding of float32 sums, of either sign.
    """
    generator = torch.Generator().manual_seed(seed)
    left, right = [], []
    common = torch.randn(SIZE, dtype=torch.float64, generator=generator)
    for model in range(MODELS):
        direction = common + 1e-4 * torch.randn(SIZE, dtype=torch.float64, generator=generator)
        direction /= direction.norm()
        rows = torch.randn(200, SIZE, dtype=torch.float64, generator=generator)
        rows = (rows - (rows @ direction)[:, None] * direction) * torch.logspace(0, -1.5, 200, dtype=torch.float64)[
            :, None
        ]
        gram = rows.T @ rows
        sign = -1 if model == 0 else 1
        right.append(gram + sign * noise * float(torch.linalg.eigvalsh(gram)[-1]) * torch.outer(direction, direction))
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator))[0]
        left.append((basis * torch.logspace(0, -4, SIZE, dtype=torch.float64)) @ basis.T)
    stacks = [torch.stack(side)[:, None].to(dtype) for side in (left, right)]
    return KroneckerQuadratic(*stacks)


def random_targets(quadratic: KroneckerQuadratic) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(quadratic.models, *quadratic.shape, dtype=torch.float64, generator=generator)


def solved(quadratic: KroneckerQuadratic, settings: SolverSettings = FREE) -> tuple[Tensor, Certificate]:
    targets = random_targets(quadratic)
    solution = solve_quadratic(quadratic, targets, targets.mean(dim=0), settings)
    return solution.value, solution.certificates[0]


def test_a_direction_that_rounding_made_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with the eigenvalue floored instead, the same system runs far away along it."""
    quadratic = normalised_grams(noise=1e-8)
    _, held = solved(quadratic)
    assert held.stop_reason is StopReason.CONVERGED
    assert held.movement < 20
    make = mats.solvers.iterative.make_preconditioner
    monkeypatch.setattr(
        mats.solvers.iterative, "make_preconditioner", lambda basis, shift, cutoff, hidden: make(basis, shift, cutoff)
    )
    _, floored = solved(quadratic)
    assert floored.movement > 5 * held.movement or not floored.stop_reason.solved


def test_an_eigenvalue_below_the_cutoff_moves_where_the_tolerance_needs_it() -> None:
    """With a tolerance that the other coordinates cannot reach alone, later stages move there too, and get it."""
    quadratic = normalised_grams(noise=0.0, dtype=torch.float64)
    _, certificate = solved(quadratic, SolverSettings(anchor=0.0, tolerance=1e-6, max_iterations=3000))
    assert certificate.stop_reason is StopReason.CONVERGED
    assert certificate.relative_residual <= 1.01e-6
    _, once = solved(quadratic, SolverSettings(anchor=0.0, tolerance=1e-6, max_iterations=3000, refinements=0))
    assert not once.stop_reason.solved


def test_stages_go_from_narrow_to_wide() -> None:
    def names(settings: SolverSettings, *, hidden: bool, plain: bool = False) -> list[tuple[torch.dtype, str]]:
        stages = plan_stages(settings, 1e-6, plain=plain, hidden=hidden)
        return [(stage.arithmetic.products, stage.hidden) for stage in stages]

    narrow, single, double = torch.bfloat16, torch.float32, torch.float64
    refined = SolverSettings(precision="bfloat16_refined")
    assert names(refined, hidden=False) == [(narrow, "floored"), (single, "floored"), (double, "floored")]
    free = SolverSettings(anchor=0.0)
    assert names(free, hidden=True) == [(single, "spared"), (single, "cautious"), (double, "cautious")]
    wide = SolverSettings(anchor=0.0, precision="float64")
    assert names(wide, hidden=True) == [(double, "spared"), (double, "cautious")]
    assert names(SolverSettings(refinements=0), hidden=False) == [(single, "floored")]
    plain = SolverSettings(name="cg", anchor=0.0, precision="bfloat16_refined")
    assert names(plain, hidden=False, plain=True) == [(single, "floored"), (double, "floored")]


def test_float64_takes_over_where_float32_stalls() -> None:
    """Plain CG on a system of condition 1e8: float32 products alone do not reach 1e-7, the stage after them does."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    factor = (basis * torch.logspace(0, -4, 6, dtype=torch.float64)) @ basis.T
    other = torch.diag(torch.logspace(0, -4, 6, dtype=torch.float64))
    quadratic = KroneckerQuadratic(torch.stack([factor, other])[:, None], torch.stack([other, factor])[:, None])
    targets = random_targets(quadratic)
    options = {"name": "cg", "anchor": 0.0, "tolerance": 1e-10, "max_iterations": 20_000}
    alone = solve_quadratic(quadratic, targets, targets.mean(dim=0), SolverSettings(**options, refinements=0))
    staged = solve_quadratic(quadratic, targets, targets.mean(dim=0), SolverSettings(**options, refinements=3))
    assert not alone.solved
    assert staged.solved
    assert staged.certificates[0].relative_residual <= 1.01e-10
