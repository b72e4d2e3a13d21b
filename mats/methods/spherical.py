"""Spherical interpolation of tensors: along the great circle between two directions, not along the chord.

With φ the angle between a and b,

    slerp(a, b; t) = sin((1 − t) φ) / sin φ · a + sin(t φ) / sin φ · b

(K. Shoemake, Animating rotation with quaternion curves, 1985, section 3.3). Lengths are not made equal first: the two
coefficients depend on the angle alone. Where the two are all but parallel the chord is taken, and a vector of zeros
counts as orthogonal to every other (mergekit's convention: what only one of two models changed comes with sin).
"""

from __future__ import annotations

import torch
from torch import Tensor

PARALLEL = 0.9995  # |cos φ| from which on the chord is taken; there both agree to 1e-4 of the length
SMALLEST_LENGTH = 1e-8  # of a vector that has a direction


def interpolate_(
    first: Tensor, second: Tensor, place: float, *, dim: int | None = None, parallel: float = PARALLEL
) -> Tensor:
    """slerp(first, second; place), written into `first`.

    Args:
        first, second: of one shape, fp32 or fp64; `second` is left as it is.
        place: t; 0 gives `first`, 1 gives `second`.
        parallel: |cos φ| above which the chord is taken.
        dim: None: each tensor is one vector; else each is many vectors along this axis, with an angle each.
    """
    dims = tuple(range(first.dim())) if dim is None else (dim,)
    if first.dim() == 0 or first.numel() == 0:
        return first.mul_(1.0 - place).add_(second, alpha=place)
    inner = (first * second).sum(dims, keepdim=True, dtype=torch.float64)
    lengths = [torch.linalg.vector_norm(each, dim=dims, keepdim=True, dtype=torch.float64) for each in (first, second)]
    cosine = inner / (lengths[0] * lengths[1]).clamp_min_(SMALLEST_LENGTH**2)
    chord = cosine.abs() > parallel
    angle = torch.arccos(torch.where(chord, torch.zeros_like(cosine), cosine))
    share_first = torch.where(chord, 1.0 - place, torch.sin((1.0 - place) * angle) / torch.sin(angle))
    share_second = torch.where(chord, place, torch.sin(place * angle) / torch.sin(angle))
    return first.mul_(share_first.to(first.dtype)).addcmul_(second, share_second.to(first.dtype))
