"""Exact solves where Σ λ C is diagonal in a known basis: an elementwise division, with an anchor or a radius alike.

That covers the average, diagonal Fisher, RegMean and block Fisher (a right factor alone), a single K-FAC block, a tied
embedding (token counts beside one Gram), and any system small enough for its matrix to be formed and decomposed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.solvers.basis import JointBasis
from mats.solvers.outcome import Outcome, closed_form_outcome
from mats.solvers.problem import Problem, norms

BISECTIONS = 80  # of an interval of ν in logarithms: to the last bit of float64


def solve_in_basis(problem: Problem, basis: JointBasis, shift: Tensor, radius: float | None, cutoff: float) -> Outcome:
    """Δ = b ⊘ (curvature + ν) in the basis; directions below the cutoff stay at the start where ν = 0.

    Args:
        problem: L systems.
        basis: float64, with `basis.exact`; for a small system's own eigenbasis see `dense_basis`.
        shift: ν [L] from the anchor.
        radius: bound of ‖Δ‖ in units of `problem.distance`; ν grows to keep it.
        cutoff: relative, on the curvature.
    """
    flat = basis.curvature.shape != problem.rhs.shape
    rhs = problem.rhs.reshape(basis.curvature.shape) if flat else problem.rhs
    scale = torch.where(problem.scale > 0, problem.scale, 1.0)[:, None, None]
    coordinates = basis.rotate(rhs) / scale
    hidden = basis.singular(cutoff) & (shift == 0)[:, None, None]
    coordinates = coordinates.masked_fill(hidden, 0.0)
    active = torch.zeros_like(shift, dtype=torch.bool)
    if radius is not None:
        shift, active = _shift_for_radius(coordinates, basis.curvature, shift, radius * problem.distance)
    correction = basis.rotate_back(_divide(coordinates, basis.curvature, shift)).reshape(problem.rhs.shape)
    residual, losses = problem.residual(correction, shift)
    outcome = closed_form_outcome(correction, shift, residual, losses)
    outcome.radius_active = active
    kept = (basis.curvature + shift[:, None, None]).masked_fill(hidden, torch.inf).amin(dim=(1, 2))
    outcome.smallest_curvature = torch.where(kept.isfinite(), kept, 0.0)
    return outcome


def _divide(coordinates: Tensor, curvature: Tensor, shift: Tensor) -> Tensor:
    """coordinates ⊘ (curvature + ν), 0 where the numerator is."""
    return torch.where(coordinates != 0, coordinates / (curvature + shift[:, None, None]), 0.0)


def _shift_for_radius(coordinates: Tensor, curvature: Tensor, shift: Tensor, longest: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest ν ≥ shift with ‖coordinates ⊘ (curvature + ν)‖ ≤ longest, by bisection on the device.

    Returns:
        ν [L], and whether it exceeds `shift` [L].
    """
    active = norms(_divide(coordinates, curvature, shift)) > longest
    # ‖Δ(ν)‖ ≤ ‖b‖ / ν, so this end keeps the bound; the other is a rounding away from no shift at all.
    high = torch.where(longest > 0, norms(coordinates) / longest, 1.0)
    low = torch.maximum(shift, 1e-18 * high)
    for _ in range(BISECTIONS):
        middle = (low * high).sqrt()
        inside = norms(_divide(coordinates, curvature, middle)) <= longest
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return torch.where(active, high, shift), active


def dense_basis(quadratic: Quadratic, scale: Tensor) -> JointBasis:
    """The eigenbasis of Σ λ C itself, formed column by column: for systems of few unknowns n = out · in.

    Returns:
        A basis for X flattened to [L, 1, n].
    """
    systems, rows, columns = quadratic.shape
    unknowns = rows * columns
    matrix = torch.empty(systems, unknowns, unknowns, dtype=torch.float64, device=quadratic.device)
    column = torch.zeros(systems, unknowns, dtype=torch.float64, device=quadratic.device)
    for position in range(unknowns):
        column[:, position] = 1.0
        matrix[:, :, position] = quadratic.apply(column.view(quadratic.shape)).reshape(systems, unknowns)
        column[:, position] = 0.0
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    divisor = torch.where(scale > 0, scale, 1.0)[:, None]
    return JointBasis(None, vectors, (values.clamp(min=0) / divisor)[:, None, :], exact=True)
