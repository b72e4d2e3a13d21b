"""The radius: the smallest anchor that keeps ‖Δ‖ within it, per system, for every solver."""

from __future__ import annotations

import pytest
import torch
from oracles import smallest_anchor_within
from quadratic_cases import SYSTEMS, make_case, make_targets

from mats.errors import RequestError
from mats.quadratics import KroneckerQuadratic
from mats.solvers import SolverSettings, solve_quadratic

EXACT = {"tolerance": 1e-8, "precision": "float64", "max_iterations": 3000}


@pytest.mark.parametrize("radius", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("solver", ["pcg", "cg", "direct"])
@pytest.mark.parametrize("name", ["kfac", "regmean", "diagonal_fisher", "tied_kfac"])
def test_smallest_anchor_within_the_radius(name: str, solver: str, radius: float, device: str) -> None:
    case = make_case(name)
    targets, start = make_targets(case)
    settings = SolverSettings(name=solver, anchor=0.0, radius=radius, **EXACT)  # type: ignore[arg-type]
    solution = solve_quadratic(case.quadratic.to(device), [t.to(device) for t in targets], start.to(device), settings)
    assert solution.solved
    for system, certificate in enumerate(solution.certificates):
        curvatures = [C[system] for C in case.dense]
        arrays = [t[system].numpy() for t in targets]
        mu = smallest_anchor_within(curvatures, arrays, start[system].numpy(), case.quadratic.weights, radius)
        assert certificate.movement <= radius * (1 + 1e-6)
        if mu == 0.0:
            assert not certificate.radius_active
        else:
            assert certificate.radius_active
            assert certificate.movement >= 0.98 * radius
            assert certificate.anchor == pytest.approx(mu, rel=0.05 if solver != "direct" else 1e-6)


@pytest.mark.parametrize("solver", ["pcg", "direct"])
def test_the_anchor_is_a_lower_bound(solver: str) -> None:
    """Where the anchor alone keeps within the radius, the radius changes nothing."""
    case = make_case("kfac")
    targets, start = make_targets(case)
    held = SolverSettings(name=solver, anchor=0.5, **EXACT)  # type: ignore[arg-type]
    bounded = SolverSettings(name=solver, anchor=0.5, radius=10.0, **EXACT)  # type: ignore[arg-type]
    one, other = (solve_quadratic(case.quadratic, targets, start, s) for s in (held, bounded))
    torch.testing.assert_close(one.value, other.value, rtol=1e-6, atol=1e-7)
    for before, after in zip(one.certificates, other.certificates, strict=True):
        assert after.anchor == pytest.approx(before.anchor)
        assert not after.radius_active


def test_each_system_has_its_own_anchor() -> None:
    case = make_case("kfac")
    targets, start = make_targets(case)
    start = start * torch.tensor([1.0, 0.01], dtype=torch.float64)[:, None, None]
    solution = solve_quadratic(case.quadratic, targets, start, SolverSettings(radius=0.2, anchor=0.0))
    relative = [c.anchor / float(s) for c, s in zip(solution.certificates, case.quadratic.mean_diagonal(), strict=True)]
    assert len(solution.certificates) == SYSTEMS
    assert abs(relative[0] - relative[1]) > 0.05 * max(relative)


def test_singular_system_within_a_radius() -> None:
    """The regime where the plain solution is ruinous: nearly opposite models, hardly any data."""
    case = make_case("kfac", singular=True)
    targets, start = make_targets(case)
    free = solve_quadratic(case.quadratic, targets, start, SolverSettings(name="direct", anchor=1e-5))
    bound = min(c.movement for c in free.certificates) * 0.5
    settings = SolverSettings(anchor=0.0, radius=bound, **EXACT)  # type: ignore[arg-type]
    solution = solve_quadratic(case.quadratic, targets, start, settings)
    for certificate in solution.certificates:
        assert 0.97 * bound <= certificate.movement <= bound
        assert certificate.radius_active


def test_nothing_to_do_within_a_radius() -> None:
    case = make_case("kfac")
    _, start = make_targets(case)
    for solver in ("pcg", "direct"):
        settings = SolverSettings(name=solver, radius=0.5)  # type: ignore[arg-type]
        assert torch.equal(solve_quadratic(case.quadratic, [start] * 3, start, settings).value, start)


def test_the_bias_column_counts() -> None:
    """‖Δ‖ is over the whole matrix, bias column included: moving it alone already uses the radius up."""
    grams = torch.eye(4, dtype=torch.float64).expand(2, 1, 4, 4)
    start = torch.zeros(1, 3, 4, dtype=torch.float64)
    targets = torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    targets[:, :, :, -1] = 1.0
    quadratic = KroneckerQuadratic(None, grams, shape=(1, 3, 4))
    solution = solve_quadratic(quadratic, targets, start, SolverSettings(anchor=0.0, radius=0.5, tolerance=1e-8))
    assert float(solution.value.norm()) == pytest.approx(0.5 * 3**0.5, rel=0.02)


def test_two_models_without_anchor_have_no_radius() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 1, 60, 60, generator=generator)
    grams = rows @ rows.mT
    targets = torch.randn(2, 1, 60, 60, generator=generator)
    quadratic = KroneckerQuadratic(grams, grams.flip(0))
    settings = SolverSettings(name="direct", anchor=0.0, radius=0.5)
    with pytest.raises(
        RequestError, match=r"no closed form for 2 models of shape \(60, 60\) with anchor 0.0, radius 0.5"
    ):
        solve_quadratic(quadratic, targets, targets.mean(dim=0), settings)
