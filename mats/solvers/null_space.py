"""How far a solution went where no model sees anything, when no pull kept it from there.

The null space of Σ λ_i G_i ⊗ A_i is what those of all models have in common; its complement is the sum of their ranges.
With P_i the projector on range(G_i) ⊗ range(A_i) and S = Σ P_i, that complement is range(S). Plain conjugate gradients
on S Y = S Δ from 0 stay in it and end at the orthogonal projection of Δ on it; so 1 − ‖Y‖² ÷ ‖Δ‖² is the share of ‖Δ‖²
that no model sees. The condition of S is that of the angles between the ranges, whatever the spectra are: a few dozen
iterations do. Where the *sums* of factors have full rank, this finds what their joint eigenvectors cannot show.

Cost: an eigendecomposition in float64 of every factor of every model (a preconditioned solve needs one of each side's
sum), and float64 products. It ends early where some model has factors of full rank: nothing is unseen then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mats.quadratics import KroneckerQuadratic, Quadratic
from mats.solvers.basis import JointBasis
from mats.solvers.conjugate import Limits, conjugate_gradients
from mats.solvers.outcome import Outcome
from mats.solvers.problem import norms
from mats.solvers.settings import SolverSettings
from mats.solvers.system import System

SMALL = 256  # rows and columns up to which the share is measured unasked
SHARE_ITERATIONS = 300  # most for one projection
SHARE_TOLERANCE = 1e-4  # relative residual of S Y = S Δ; ‖Y‖² is that near where the ranges are not nearly parallel


def worth_measuring(quadratic: Quadratic, basis: JointBasis | None, settings: SolverSettings) -> bool:
    """Whether the share is to be measured: nothing pulls, the iteration may have left the ranges, and it is cheap or
    asked for."""
    free = settings.anchor == settings.damping == 0 and settings.name != "cg"
    if not free or not isinstance(quadratic, KroneckerQuadratic) or (basis is not None and basis.exact):
        return False
    if quadratic.left is None or quadratic.right is None:
        return False
    return settings.measure_null_share or (basis is not None and max(quadratic.shape[1:]) <= SMALL)


def null_share(quadratic: KroneckerQuadratic, outcome: Outcome, cutoff: float) -> Tensor:
    """Share of ‖Δ‖² that no model sees [L] float64; NaN where ν > 0, for there a pull holds Δ.

    Args:
        quadratic: Σ λ G ⊗ A, both factors there.
        outcome: Δ and ν.
        cutoff: eigenvalues of a factor at most this share of its largest are zero.
    """
    share = torch.full_like(outcome.shift, torch.nan)
    for system in (outcome.shift == 0).nonzero().flatten().tolist():  # one at a time: projectors are float64 copies
        part = slice(system, system + 1)
        share[part] = _share(quadratic.select(part), outcome.correction[part], cutoff)
    return share


def _share(quadratic: KroneckerQuadratic, correction: Tensor, cutoff: float) -> Tensor:
    """Of a single system: [1]."""
    nothing = torch.zeros(1, dtype=torch.float64, device=correction.device)
    norm = norms(correction)
    models = [model for model, weight in enumerate(quadratic.weights) if weight > 0]
    if not models or float(norm) == 0:
        return nothing
    pairs: list[tuple[Tensor, Tensor]] = []
    for model in models:
        pair, full = [], True
        for stack in (quadratic.left, quadratic.right):
            assert stack is not None
            projector, rank = _projector(stack[model], cutoff)
            pair.append(projector)
            full = full and rank == stack.shape[2]
        if full:
            return nothing
        pairs.append((pair[0], pair[1]))
    left, right = (torch.stack([pair[side] for pair in pairs]) for side in (0, 1))
    projectors = KroneckerQuadratic(left, right)
    b = projectors.apply(correction / norm[:, None, None])
    if float(norms(b)) == 0:
        return nothing + 1
    limits = Limits(SHARE_TOLERANCE * norms(b), torch.full((1,), SHARE_ITERATIONS, device=b.device))
    seen = conjugate_gradients(System(projectors, None, torch.zeros_like(norm)[:, None, None]), b, None, limits)
    return (1 - norms(seen.X).square()).clamp(0, 1)


def _projector(factor: Tensor, cutoff: float) -> tuple[Tensor, int]:
    """The projector on the range of a factor [1, n, n] or of a diagonal [1, n], likewise float64; and its rank."""
    if factor.dim() == 2:
        seen = factor > cutoff * factor.amax(dim=1, keepdim=True).clamp(min=0)
        return seen.to(torch.float64), int(seen.sum())
    wide = factor.to(torch.float64)
    values, vectors = torch.linalg.eigh((wide + wide.mT) / 2)
    seen = values > cutoff * values[:, -1:].clamp(min=0)
    kept = vectors * seen[:, None, :]
    return torch.bmm(kept, kept.mT), int(seen.sum())
