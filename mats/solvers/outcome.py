"""What every way of solving reports to `solve_quadratic`, before it becomes a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
        for name in ("correction", "shift", "iterations", "state", "residual_norm", "radius_active"):
            getattr(self, name).index_copy_(0, index, getattr(part, name))
        self.losses.index_copy_(1, index, part.losses)


def closed_form_outcome(correction: Tensor, shift: Tensor, residual: Tensor, losses: Tensor) -> Outcome:
    """An outcome without iterations. residual: [L, out, in]."""
    zeros = torch.zeros(correction.shape[0], dtype=torch.int64, device=correction.device)
    norm = torch.linalg.vector_norm(residual, dim=(1, 2))
    inactive = torch.zeros_like(zeros, dtype=torch.bool)
    return Outcome(
        correction, shift.clone(), zeros, zeros.clone(), norm, losses, inactive, closed_form=True, residual=residual
    )
