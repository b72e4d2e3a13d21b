"""From numbers on the device to certificates: the only place where a whole solve is copied to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from mats.solvers.conjugate import CONVERGED, NO_CURVATURE, OUT_OF_ITERATIONS, STAGNATED
from mats.solvers.outcome import Outcome
from mats.solvers.problem import Problem, norms
from mats.solvers.solution import Certificate, StopReason

CLOSED_FORM_LIMIT = 1e-4  # relative residual a closed form stays below, even where it cut directions that are rounding

_REASONS = {
    CONVERGED: StopReason.CONVERGED,
    STAGNATED: StopReason.STAGNATED,
    NO_CURVATURE: StopReason.NO_CURVATURE,
    OUT_OF_ITERATIONS: StopReason.ITERATION_LIMIT,
}


def certify(
    problem: Problem, models: int, outcome: Outcome, null_share: Tensor | None, tolerance: float
) -> tuple[Certificate, ...]:
    """One certificate per system, with the losses of the first `models` of the problem's models."""
    ratios = [
        _ratio(outcome.residual_norm, problem.reference_norm),
        _ratio(norms(outcome.correction), problem.distance),
        outcome.shift * problem.scale,
        torch.full_like(problem.scale, -1.0) if null_share is None else null_share.to(problem.scale.dtype),
        problem.rhs_norm,
    ]
    numbers = torch.stack(ratios).T.tolist()
    before, after = problem.losses[:models].T.tolist(), outcome.losses[:models].T.tolist()
    counts = torch.stack([outcome.iterations, outcome.state, outcome.radius_active.to(torch.int64)]).T.tolist()
    certificates = []
    for system, (residual, movement, anchor, share, rhs_norm) in enumerate(numbers):
        iterations, state, radius_active = counts[system]
        reason = _REASONS.get(state, StopReason.ITERATION_LIMIT)
        if rhs_norm == 0:
            reason = StopReason.NOTHING_TO_DO
        elif outcome.closed_form:
            solved = residual <= max(tolerance, CLOSED_FORM_LIMIT)
            reason = StopReason.CLOSED_FORM if solved else StopReason.STAGNATED
        certificates.append(
            Certificate(
                iterations=iterations,
                relative_residual=residual,
                stop_reason=reason,
                anchor=anchor,
                radius_active=bool(radius_active),
                loss_before=tuple(before[system]),
                loss_after=tuple(after[system]),
                movement=movement,
                null_share=None if null_share is None else share,
            )
        )
    return tuple(certificates)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part ÷ whole, 0 where the whole is."""
    return torch.where(whole > 0, part / whole, 0.0)
