"""How far a solution can be from the exact one: bounds that follow from the residual and from what is known of H.

H = Σ λ C + D + μI is positive definite as soon as there is an anchor or a damping: D holds the multiple
s² Σ λ_i ḡ_i ā_i of the identity, so no eigenvalue of H is below ν = μ + s² Σ λ_i ḡ_i ā_i. With r = b − HΔ,

    E(Δ) − E(Δ*) = ½ ⟨r, H⁻¹ r⟩ ≤ ½ ⟨r, L⁻¹ r⟩      for any L ⪯ H,
    ‖Δ − Δ*‖² ≤ ⟨r, H⁻¹ r⟩ ÷ ν.

L = νI is the textbook's bound. A sharper one costs a single rotation of r: D = I ⊗ R + Q ⊗ I holds sums of the same
factors as Ĝ and Â do, with other weights, so D ⪰ γ_G Ĝ ⊗ I + γ_A I ⊗ Â + s² Σ λ ḡ ā I with γ_G = (s ÷ in) min_i w_i and
γ_A = (s ÷ out) min_i w_i (w_i as in `factor_sums`), and that is diagonal in the joint eigenbasis. Where H itself is
diagonal there, L = H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mats.quadratics import DampedQuadratic
from mats.solvers.basis import JointBasis
from mats.solvers.outcome import Outcome
from mats.solvers.problem import Problem, norms
from mats.solvers.system import make_preconditioner

ROTATION = {torch.float64: 1e-12, torch.float32: 1e-5}
"""‖computed − exact‖ ÷ ‖R‖ of a rotation by eigenvectors in that dtype; float32 stays near 3e-6 at width 3072."""


PROVEN, RETAINED, ESTIMATED, NONE = range(4)
"""What a system's bounds rest on, as numbers on the device; in the order of `BoundKind`."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of L systems, and what they rest on.

    Attributes:
        eigenvalue: ν [L], 0 where nothing is known.
        error: of ‖Δ − Δ*‖ [L], infinite where nothing is known.
        gap: of E(Δ) − E(Δ*) [L], likewise.
        kind: [L] int64, see PROVEN.
    """

    eigenvalue: Tensor
    error: Tensor
    gap: Tensor
    kind: Tensor


def bound_errors(
    problem: Problem, outcome: Outcome, residual: Tensor, basis: JointBasis | None, cutoff: float
) -> Bounds:
    """The sharpest bounds that what is known about the systems allows.

    Args:
        problem: the systems.
        outcome: how they were left.
        residual: b − HΔ [L, out, in] float64.
        basis: the joint eigenbasis of the iteration or closed form, if there is one.
        cutoff: eigenvalues below this share of the largest count as zero.
    """
    found = _bound(problem, outcome, residual, basis, cutoff)
    return replace(found, kind=found.kind.masked_fill(problem.rhs_norm == 0, PROVEN))  # b = 0: the start is a solution


def _bound(problem: Problem, outcome: Outcome, residual: Tensor, basis: JointBasis | None, cutoff: float) -> Bounds:
    """By what is known: all of H, a diagonal below it, its smallest eigenvalue, or a Ritz value."""
    if basis is not None and basis.exact:
        return _exact(problem, outcome, residual, basis, cutoff)
    smallest = proven_eigenvalue(problem, outcome.shift)
    norm = outcome.residual_norm
    if basis is not None:
        coordinates = _coordinates(basis, residual)
        metric = (coordinates / _lower_curvature(problem, basis, smallest)).sum(dim=(1, 2)).sqrt()
        root = metric + ROTATION[basis.curvature.dtype] * norm / smallest.sqrt()
        found = _bounds(smallest, root / smallest.sqrt(), 0.5 * root.square(), norm)
        inverse = make_preconditioner(basis, outcome.shift, cutoff).inverse
        return _estimated(problem, outcome, found, (coordinates * inverse).sum(dim=(1, 2)))
    if outcome.smallest_curvature is not None:
        kept = torch.maximum(outcome.smallest_curvature * problem.scale, smallest)
        found = _bounds(kept, norm / kept, 0.5 * norm.square() / kept, norm)
        return replace(found, kind=torch.where(smallest > 0, PROVEN, RETAINED))
    found = _bounds(smallest, norm / smallest, 0.5 * norm.square() / smallest, norm)
    return _estimated(problem, outcome, found, norm.square())


def proven_eigenvalue(problem: Problem, shift: Tensor) -> Tensor:
    """ν = μ + s² Σ λ_i ḡ_i ā_i [L]: no eigenvalue of H is smaller, whatever the factors are."""
    quadratic = problem.quadratic
    smallest = shift * problem.scale
    if isinstance(quadratic, DampedQuadratic):
        smallest = smallest + quadratic.strength**2 * quadratic.undamped.mean_diagonal().clamp(min=0)
    return smallest


def _bounds(smallest: Tensor, error: Tensor, gap: Tensor, norm: Tensor) -> Bounds:
    """Bounds with what a division by ν = 0 left set right: without a residual there is no error, else any."""
    unknown = smallest <= 0
    error, gap = (torch.where(norm > 0, value.masked_fill(unknown, torch.inf), 0.0) for value in (error, gap))
    return Bounds(smallest, error, gap, torch.where(unknown, NONE, PROVEN))


def _coordinates(basis: JointBasis, residual: Tensor) -> Tensor:
    """Squared coordinates of the residual in the basis [L, out, in] float64."""
    norm = norms(residual)
    unit = torch.where(norm > 0, norm, 1.0)[:, None, None]  # so that no scale is lost where the basis is float32
    return (basis.rotate((residual / unit).to(basis.curvature.dtype)).to(torch.float64) * unit).square()


def _exact(problem: Problem, outcome: Outcome, residual: Tensor, basis: JointBasis, cutoff: float) -> Bounds:
    """Bounds where H is diagonal in the basis: the error itself, but for rounding, on what was kept."""
    norm = outcome.residual_norm
    curvature = basis.curvature.to(torch.float64)
    rounding = max(curvature.shape[1:]) * torch.finfo(torch.float64).eps * curvature.amax(dim=(1, 2), keepdim=True)
    sure = (curvature * (1 - 1e-6) - rounding).clamp(min=0)  # float32 holds an eigenvalue to 1e-7
    lower = (sure + outcome.shift[:, None, None]) * problem.scale[:, None, None]
    hidden = basis.singular(cutoff) & (outcome.shift == 0)[:, None, None]
    smallest = lower.masked_fill(hidden, torch.inf).amin(dim=(1, 2))
    smallest = torch.where(smallest.isfinite(), smallest, 0.0)
    coordinates = _coordinates(basis, residual).masked_fill(hidden, 0.0)
    lower = lower.masked_fill(hidden, 1.0)
    slip = ROTATION[basis.curvature.dtype] * norm
    error = (coordinates / lower.square()).sum(dim=(1, 2)).sqrt() + slip / smallest
    root = (coordinates / lower).sum(dim=(1, 2)).sqrt() + slip / smallest.sqrt()
    found = _bounds(smallest, error, 0.5 * root.square(), norm)
    partly = hidden.any(dim=2).any(dim=1) & (found.kind == PROVEN)
    return replace(found, kind=found.kind.masked_fill(partly, RETAINED))


def _lower_curvature(problem: Problem, basis: JointBasis, smallest: Tensor) -> Tensor:
    """A diagonal L ⪯ H in the joint eigenbasis, in the unit of C: at least ν, more where the damping is known to be."""
    quadratic, zero = problem.quadratic, torch.zeros_like(smallest)[:, None, None]
    lower = smallest[:, None, None] + zero
    if not isinstance(quadratic, DampedQuadratic):
        return lower
    rows, columns = quadratic.shape[1:]
    weights = torch.tensor(quadratic.undamped.weights, dtype=torch.float64, device=smallest.device)[:, None]
    shares = (weights * quadratic.undamped.mean_diagonals().clamp(min=0) * (rows * columns)).sqrt()  # w_i [m, L]
    least = torch.where(shares > 0, shares, torch.inf).amin(dim=0)
    least = quadratic.strength * torch.where(least.isfinite(), least, 0.0)[:, None]
    if basis.left_values is not None:
        lower = lower + (least / columns * basis.left_values.to(torch.float64))[:, :, None]
    if basis.right_values is not None:
        lower = lower + (least / rows * basis.right_values.to(torch.float64))[:, None, :]
    return lower


def _estimated(problem: Problem, outcome: Outcome, found: Bounds, metric: Tensor) -> Bounds:
    """Where nothing is proven: the gap by the smallest Ritz value θ, ½ ⟨r, M⁻¹ r⟩ ÷ (θ · scale).

    θ is at least the smallest eigenvalue that the residual sees, so this is rather too small than too large.
    """
    if outcome.smallest_ritz is None:
        return found
    ritz = outcome.smallest_ritz
    chosen = (found.kind == NONE) & (ritz > 0) & (problem.scale > 0) & (outcome.residual_norm > 0)
    gap = torch.where(chosen, 0.5 * metric / (ritz * problem.scale), found.gap)
    return replace(found, gap=gap, kind=found.kind.masked_fill(chosen, ESTIMATED))
