"""A batch of systems made ready: the right-hand side, its norms, and the unit in which each system is solved.

Everything here is float64: it is computed once or a few times, and decides what the certificate can claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.quadratics.base import Index
from mats.solvers.settings import Reference


@dataclass(frozen=True)
class Problem:
    """(Σ λ C + μI) Δ = b with b = Σ λ C (W − x0), for L systems.

    Attributes:
        quadratic: Σ λ C.
        targets: W_i, m tensors [L, out, in].
        start: x0 [L, out, in] float64.
        rhs: b [L, out, in] float64.
        rhs_norm: ‖b‖ [L].
        reference_norm: what residuals are relative to [L]; equal to `rhs_norm` where the reference is the correction.
        scale: Σ λ mean diagonal of C [L]: the unit of C and μ.
        distance: max_i ‖W_i − x0‖ [L].
        losses: each model's quadratic at x0 [m, L].
    """

    quadratic: Quadratic
    targets: Sequence[Tensor]
    start: Tensor
    rhs: Tensor
    rhs_norm: Tensor
    reference_norm: Tensor
    scale: Tensor
    distance: Tensor
    losses: Tensor

    @property
    def unit(self) -> Tensor:
        """‖b‖ ÷ scale [L]: corrections are multiples of it, whatever the scales of C and W."""
        return torch.where(self.scale > 0, self.rhs_norm / self.scale, 0.0)

    @property
    def systems(self) -> int:
        """L."""
        return self.quadratic.shape[0]

    def residual(self, correction: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """b − (Σ λ C + μI) Δ, and the models' quadratics at x0 + Δ, from scratch.

        Args:
            correction: Δ [L, out, in] float64.
            shift: μ ÷ scale [L].
        """
        gradient, losses = self.quadratic.evaluate(self.targets, self.start + correction)
        return gradient.add_(correction * (shift * self.scale)[:, None, None]).neg_(), losses

    def select(self, index: Index) -> Problem:
        """The problem of some of the systems; a slice copies nothing."""
        return Problem(
            self.quadratic.select(index),
            [target[index] for target in self.targets],
            self.start[index],
            self.rhs[index],
            self.rhs_norm[index],
            self.reference_norm[index],
            self.scale[index],
            self.distance[index],
            self.losses[:, index],
        )


def make_problem(quadratic: Quadratic, targets: Sequence[Tensor], start: Tensor, reference: Reference) -> Problem:
    """Compute b, its norms, and the unit of each system.

    Args:
        quadratic: Σ λ C.
        targets: W_i, m tensors [L, out, in].
        start: x0 [L, out, in].
        reference: what residuals are relative to.
    """
    start = start.to(device=quadratic.device, dtype=torch.float64)
    gradient, losses = quadratic.evaluate(targets, start)
    rhs = gradient.neg_()
    rhs_norm = norms(rhs)
    reference_norm = rhs_norm
    if reference == "weights":
        reference_norm = norms(quadratic.rhs(targets, torch.zeros_like(start)))
    distance = torch.zeros_like(rhs_norm)
    for model in range(quadratic.models):
        target = targets[model].to(device=start.device, dtype=torch.float64)
        distance = torch.maximum(distance, norms(target - start))
    scale = quadratic.mean_diagonal().clamp(min=0)
    return Problem(quadratic, list(targets), start, rhs, rhs_norm, reference_norm, scale, distance, losses)


def norms(batch: Tensor) -> Tensor:
    """Frobenius norm of each system: [L, out, in] → [L]."""
    return torch.linalg.vector_norm(batch, dim=(1, 2))
