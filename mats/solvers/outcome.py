"""What every way of solving reports to `solve_quadratic`, before it becomes a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mats.quadratics.base import Index


@dataclass
class Outcome:
    """Corrections and how they were reached, for L systems.

    Attributes:
        correction: Δ [L, out, in] float64.
        shift: ν = μ ÷ scale that was used [L] float64.
        iterations: [L] int64.
        state: [L] int64, numbers of `mats.solvers.conjugate`.
        residual_norm: ‖b − (Σ λ C + μI) Δ‖ [L] float64, from scratch.
        losses: each model's quadratic at x0 + Δ [m, L] float64.
        radius_active: [L] bool: the radius decided μ.
        snapshots: Δ after chosen iterations.
        closed_form: nothing was iterated.
        residual: b − (Σ λ C + μI) Δ itself [L, out, in] float64; None: certificates compute it once more.
        smallest_curvature: of closed forms, the smallest eigenvalue of Σ λ C ÷ scale + ν that was kept [L] float64.
        smallest_ritz: of iterations, the smallest Ritz value of M⁻¹(Σ λ C ÷ scale + ν) [L] float64; M = I if plain.
        history: the recurrence's relative residual after each iteration [L, K], NaN once a system has stopped.
    """

    correction: Tensor
    shift: Tensor
    iterations: Tensor
    state: Tensor
    residual_norm: Tensor
    losses: Tensor
    radius_active: Tensor
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    closed_form: bool = False
    residual: Tensor | None = None
    smallest_curvature: Tensor | None = None
    smallest_ritz: Tensor | None = None
    history: Tensor | None = None

    def put(self, index: Tensor, part: Outcome) -> None:
        """Overwrite the systems at `index` by another outcome's."""
        for name in EACH:
            getattr(self, name).index_copy_(0, index, getattr(part, name))
        self.losses.index_copy_(1, index, part.losses)
        for name in OPTIONAL:
            own, other = getattr(self, name), getattr(part, name)
            if own is not None and other is not None:
                own.index_copy_(0, index, other)

    def select(self, index: Index) -> Outcome:
        """The part at `index`, without snapshots and history."""
        parts: dict[str, Any] = {name: getattr(self, name)[index] for name in EACH}
        for name in OPTIONAL:
            whole = getattr(self, name)
            parts[name] = None if whole is None else whole[index]
        return Outcome(**parts, losses=self.losses[:, index], closed_form=self.closed_form)


EACH = ("correction", "shift", "iterations", "state", "residual_norm", "radius_active")
"""Fields that every outcome has, a row for each system."""

OPTIONAL = ("residual", "smallest_curvature", "smallest_ritz")
"""Likewise, in some outcomes."""


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """The outcome of all systems from those of pieces of them, solved in the same way."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in EACH}
    for name in OPTIONAL:
        values = [getattr(part, name) for part in parts]
        joined[name] = None if any(value is None for value in values) else torch.cat(values)
    return Outcome(
        **joined,
        losses=torch.cat([part.losses for part in parts], dim=1),
        snapshots={key: torch.cat([part.snapshots[key] for part in parts]) for key in parts[0].snapshots},
        closed_form=parts[0].closed_form,
        history=_side_by_side([part.history for part in parts]),
    )


def _side_by_side(histories: Sequence[Tensor | None]) -> Tensor | None:
    """Histories [L, K] of unlike lengths, one above the other, NaN where one is shorter."""
    present = [history for history in histories if history is not None]
    if len(present) < len(histories):
        return None
    longest = max(history.shape[1] for history in present)
    padded = (functional.pad(history, (0, longest - history.shape[1]), value=torch.nan) for history in present)
    return torch.cat(list(padded))


def closed_form_outcome(correction: Tensor, shift: Tensor, residual: Tensor, losses: Tensor) -> Outcome:
    """An outcome without iterations. residual: [L, out, in]."""
    zeros = torch.zeros(correction.shape[0], dtype=torch.int64, device=correction.device)
    norm = torch.linalg.vector_norm(residual, dim=(1, 2))
    inactive = torch.zeros_like(zeros, dtype=torch.bool)
    return Outcome(
        correction, shift.clone(), zeros, zeros.clone(), norm, losses, inactive, closed_form=True, residual=residual
    )
