"""From numbers on the device to certificates: the only place where a whole solve is copied to the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mats.quadratics import DampedQuadratic
from mats.solvers.basis import JointBasis
from mats.solvers.bounds import ESTIMATED, NONE, PROVEN, RETAINED, bound_errors
from mats.solvers.conjugate import CONVERGED, NO_CURVATURE, OUT_OF_ITERATIONS, STAGNATED
from mats.solvers.outcome import Outcome
from mats.solvers.problem import Problem, norms
from mats.solvers.solution import BoundKind, Certificate, StopReason

CLOSED_FORM_LIMIT = 1e-4  # relative residual a closed form stays below, even where it cut directions that are rounding

_REASONS = {
    CONVERGED: StopReason.CONVERGED,
    STAGNATED: StopReason.STAGNATED,
    NO_CURVATURE: StopReason.NO_CURVATURE,
    OUT_OF_ITERATIONS: StopReason.ITERATION_LIMIT,
}

_KINDS = {
    PROVEN: BoundKind.PROVEN,
    RETAINED: BoundKind.RETAINED,
    ESTIMATED: BoundKind.ESTIMATED,
    NONE: BoundKind.NONE,
}


def certify(
    problem: Problem,
    models: int,
    outcome: Outcome,
    basis: JointBasis | None,
    cutoff: float,
    tolerance: float,
    hidden_share: Tensor | None = None,
) -> tuple[Certificate, ...]:
    """One certificate per system.

    Args:
        problem: the systems.
        models: the losses of so many of the problem's models are told; what comes after them is damping.
        outcome: how the systems were left.
        basis: their joint eigenbasis; None where it is not known.
        cutoff: eigenvalues below this share of the largest count as zero.
        tolerance: relative residual that was asked for.
        hidden_share: the null-space share [L] by `mats.solvers.null_space`, NaN where it was not measured so.
    """
    residual = outcome.residual
    if residual is None:
        residual = problem.residual(outcome.correction, outcome.shift)[0]
    bounds = bound_errors(problem, outcome, residual, basis, cutoff)
    anchor = outcome.shift * problem.scale
    share = torch.full_like(anchor, math.nan) if basis is None else basis.null_share(outcome.correction, cutoff)
    if hidden_share is not None:
        share = torch.where(hidden_share.isnan(), share.to(anchor.dtype), hidden_share)
    columns = {
        "relative_residual": _ratio(outcome.residual_norm, problem.reference_norm),
        "movement": _ratio(norms(outcome.correction), problem.distance),
        "anchor": anchor,
        "null_share": share.to(anchor.dtype),
        "energy_decrease": 0.5 * (outcome.correction * (problem.rhs + residual)).sum(dim=(1, 2)),
        "pull_share": _pull_share(problem, outcome, residual),
        "eigenvalue_bound": bounds.eigenvalue,
        "error_bound": bounds.error,
        "energy_gap_bound": bounds.gap,
    }
    numbers = torch.stack([*columns.values(), problem.rhs_norm]).T.tolist()
    before, after = problem.losses[:models].T.tolist(), outcome.losses[:models].T.tolist()
    flags = outcome.radius_active.to(torch.int64)
    counts = torch.stack([outcome.iterations, outcome.state, flags, bounds.kind]).T.tolist()
    certificates = []
    for system, (*values, rhs_norm) in enumerate(numbers):
        iterations, state, radius_active, kind = counts[system]
        named = dict(zip(columns, values, strict=True))
        for optional in ("null_share", "error_bound", "energy_gap_bound"):
            named[optional] = named[optional] if math.isfinite(named[optional]) else None
        certificates.append(
            Certificate(
                iterations=iterations,
                stop_reason=_reason(outcome, state, named["relative_residual"], rhs_norm, tolerance),
                tolerance=tolerance,
                radius_active=bool(radius_active),
                loss_before=tuple(before[system]),
                loss_after=tuple(after[system]),
                bound=_KINDS[kind],
                **named,
            )
        )
    return tuple(certificates)


def histories_of(outcome: Outcome) -> tuple[tuple[float, ...], ...]:
    """The relative residual of each system after every iteration; none of closed forms."""
    if outcome.history is None:
        return ((),) * len(outcome.shift)
    return tuple(tuple(value for value in row if not math.isnan(value)) for row in outcome.history.tolist())


def _reason(outcome: Outcome, state: int, residual: float, rhs_norm: float, tolerance: float) -> StopReason:
    """Why a system was left."""
    if rhs_norm == 0:
        return StopReason.NOTHING_TO_DO
    if outcome.closed_form:
        return StopReason.CLOSED_FORM if residual <= max(tolerance, CLOSED_FORM_LIMIT) else StopReason.STAGNATED
    return _REASONS.get(state, StopReason.ITERATION_LIMIT)


def _pull_share(problem: Problem, outcome: Outcome, residual: Tensor) -> Tensor:
    """⟨Δ, (D + μI)Δ⟩ ÷ ⟨Δ, HΔ⟩ [L]: D is the problem's last model, with the start as its target, and HΔ = b − r."""
    pull = outcome.shift * problem.scale * norms(outcome.correction).square()
    if isinstance(problem.quadratic, DampedQuadratic):
        pull = pull + 2 * outcome.losses[-1]
    whole = (outcome.correction * (problem.rhs - residual)).sum(dim=(1, 2))
    return _ratio(pull, whole).clamp(0, 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part ÷ whole, 0 where the whole is."""
    return torch.where(whole > 0, part / whole, 0.0)
