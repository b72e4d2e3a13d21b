"""Systems that break naive solvers, every solver and precision: no NaN, no false claim, the dense answer."""

from __future__ import annotations

import pytest
import torch
from hard_systems import HARD_CASES, STRENGTHS, HardCase, Judged, hard_settings, solve_hard

from mats.solvers import SolverSettings, StopReason

TOLERANCE = 1e-5
CLOSED_FORM = 1e-4  # what a closed form promises, whatever the tolerance
ROUNDING = 3e-7  # of the damping, whose sums over models are kept in the dtype of the statistics
SLACK = 1.02  # the solver counts 1.01 as reached; the judge sums in another order
SOLVERS = [
    *(
        (name, precision)
        for name in ("cg", "pcg")
        for precision in ("float32", "float64", "tf32_refined", "bfloat16_refined")
    ),
    ("direct", "float32"),
    ("auto", "float32"),
]
by_case = pytest.mark.parametrize("name", HARD_CASES)
by_strength = pytest.mark.parametrize("strength", STRENGTHS)
by_solver = pytest.mark.parametrize(("solver", "precision"), SOLVERS)


def solved(
    case: HardCase, strength: str, solver: str, precision: str = "float32", tolerance: float = TOLERANCE
) -> Judged:
    asked = STRENGTHS[strength]
    return solve_hard(case, asked, hard_settings(asked, solver, precision, tolerance))


@by_solver
@by_strength
@by_case
def test_nothing_false_is_claimed(name: str, strength: str, solver: str, precision: str) -> None:
    judged = solved(HARD_CASES[name](), strength, solver, precision)
    assert bool(judged.value.isfinite().all())
    for certificate, residual in zip(judged.certificates, judged.residuals, strict=True):
        promised = CLOSED_FORM if certificate.stop_reason is StopReason.CLOSED_FORM else TOLERANCE
        if certificate.stop_reason.solved:
            assert residual <= SLACK * promised + ROUNDING
        assert certificate.relative_residual == pytest.approx(residual, rel=1e-2, abs=ROUNDING)


@by_solver
@pytest.mark.parametrize("strength", ["anchor 0.1", "damping 0.1"])
@by_case
def test_with_a_pull_it_is_the_dense_answer(name: str, strength: str, solver: str, precision: str) -> None:
    judged = solved(HARD_CASES[name](), strength, solver, precision)
    for certificate, distance, bound in zip(judged.certificates, judged.distances, judged.bounds, strict=True):
        assert certificate.stop_reason.solved
        if distance is not None:
            assert distance <= 1.05 * bound + 1e-8
            assert distance <= 5e-3


@pytest.mark.parametrize(
    ("solver", "precision"),
    [("cg", "float32"), ("cg", "float64"), ("cg", "tf32_refined"), ("direct", "float32")],
)
@pytest.mark.parametrize("name", [name for name in HARD_CASES if name != "eigenvalues over nine orders"])
def test_without_one_the_start_is_kept_where_nobody_sees(name: str, solver: str, precision: str) -> None:
    judged = solved(HARD_CASES[name](), "free", solver, precision)
    for certificate, distance, bound, hidden in zip(
        judged.certificates, judged.distances, judged.bounds, judged.hidden, strict=True
    ):
        assert hidden <= 1e-6
        if distance is not None and certificate.stop_reason.solved:
            assert distance <= 1.05 * bound + 1e-4


@pytest.mark.parametrize("name", ["rank-deficient", "one token", "duplicated models", "embedding with unseen tokens"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_certificate_tells_how_far_pcg_moves_unseen(name: str, precision: str) -> None:
    judged = solved(HARD_CASES[name](), "free", "pcg", precision)
    for certificate, hidden in zip(judged.certificates, judged.hidden, strict=True):
        assert certificate.null_share == pytest.approx(hidden, abs=0.02)


def test_the_judge_sees_a_wrong_answer() -> None:
    """Negative control: solving at another strength is seen in the residual and in the distance."""
    case = HARD_CASES["well behaved"]()
    settings = SolverSettings(anchor=0.2, tolerance=TOLERANCE)
    judged = solve_hard(case, STRENGTHS["anchor 0.1"], settings)
    assert min(judged.residuals) > 1e-2
    assert min(distance for distance in judged.distances if distance is not None) > 1e-2


@by_case
def test_the_same_bytes_again(name: str) -> None:
    case = HARD_CASES[name]()
    first, again = (solved(case, "damping 0.1", "auto").value for _ in range(2))
    assert torch.equal(first, again)
