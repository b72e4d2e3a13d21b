"""Fewer models for the same operator: those that agree in one factor are one.

G ⊗ A_1 + c G ⊗ A_2 = G ⊗ (A_1 + c A_2), and likewise on the other side; factored damping goes along, for G + s ḡ I is
proportional wherever G is. Identical models, models without curvature, and merges in which all G_i (or all A_i) agree
up to a factor become cheaper so; the last become a single model, which has a closed form with any anchor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mats.quadratics import DampedQuadratic, KroneckerQuadratic, Quadratic

ROUNDING = 4  # units in the last place, of the largest entry, by which proportional factors may differ


def reduced(quadratic: Quadratic) -> Quadratic:
    """The same Σ λ C (and damping) of as few models as agreement in a factor allows; itself where none agree."""
    source = quadratic.undamped if isinstance(quadratic, DampedQuadratic) else quadratic
    if not isinstance(source, KroneckerQuadratic) or source.left is None or source.right is None:
        return quadratic
    if source.models == 1 or source.left.dim() + source.right.dim() < 7:
        return quadratic
    sides = [[source.left[i] for i in range(source.models)], [source.right[i] for i in range(source.models)]]
    weights = list(source.weights)
    if not _merge_agreeing(sides, weights):
        return quadratic
    fewer = KroneckerQuadratic(torch.stack(sides[0]), torch.stack(sides[1]), weights)
    return DampedQuadratic(fewer, quadratic.strength) if isinstance(quadratic, DampedQuadratic) else fewer


def _merge_agreeing(sides: list[list[Tensor]], weights: list[float]) -> bool:
    """Merge models in place, as long as any two agree on a side; whether any did."""
    merged = False
    model = 0
    while model < len(weights):
        for other in range(model + 1, len(weights)):
            if _merge_two(sides, weights, model, other):
                for stack in (*sides, weights):
                    del stack[other]  # type: ignore[attr-defined]
                merged = True
                break
        else:
            model += 1
    return merged


def _merge_two(sides: list[list[Tensor]], weights: list[float], model: int, other: int) -> bool:
    """Put another model into one, where their factors agree on a side; λ goes into the factor that is summed."""
    for shared, summed in ((0, 1), (1, 0)):
        ratio = _ratio(sides[shared][model], sides[shared][other])
        if ratio is not None:
            ours, theirs = sides[summed][model], sides[summed][other]
            factor = (ratio * weights[other]).reshape(-1, *[1] * (ours.dim() - 1))
            sides[summed][model] = (ours.double() * weights[model] + theirs.double() * factor).to(ours.dtype)
            weights[model] = 1.0
            return True
    return False


def _ratio(first: Tensor, second: Tensor) -> Tensor | None:
    """c [L] with second = c · first up to rounding in every system; None where there is none."""
    ours, theirs = (part.diagonal(dim1=1, dim2=2) if part.dim() == 3 else part for part in (first, second))
    largest, place = ours.max(dim=1)  # of a positive semi-definite matrix, the largest entry is on its diagonal
    ratio = theirs.gather(1, place[:, None])[:, 0].double() / largest.double().clamp(min=1e-300)
    limit = ROUNDING * torch.finfo(first.dtype).eps * ratio.abs() * largest
    columns = ratio.reshape(-1, *[1] * (first.dim() - 1))
    edge = limit.reshape(columns.shape)
    if bool(((second[..., :1] - columns * first[..., :1]).abs() > edge[..., :1]).any()):  # most differ here already
        return None
    return None if bool(((second.double() - columns * first.double()).abs() > edge).any()) else ratio
