"""The coordinates in which a piece of the systems is iterated: those of its joint eigenbasis, where that pays.

Rotating all factors of a system once costs 4 m (out³ + in³) operations; each iteration then saves the preconditioner's
products with U and V. A side is rotated where that is repaid within the iterations that a solve takes anyway; the
preconditioner goes on rotating the other side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mats.quadratics import DampedQuadratic, KroneckerQuadratic, Quadratic
from mats.quadratics.base import Index
from mats.quadratics.folded import can_fold, fold, pad_both, pad_last
from mats.solvers.basis import JointBasis

EXPECTED_ITERATIONS = 25  # of a preconditioned solve to 1e-4; layers of trained encoders took 31 to 62


@dataclass
class Coordinates:
    """An operator and its joint eigenbasis, as seen from inside and outside.

    Attributes:
        quadratic: Σ λ C in these coordinates, in the dtype of the iterates.
        scaled: it is divided by the systems' scale already, and its sizes are padded.
        outer: U and V of the sides that are rotated, with zero columns where they are padded; None where nothing is.
        inner: the joint eigenbasis as it looks from inside: without the sides that are rotated; None for plain CG.
        size: (out, in) outside.
    """

    quadratic: Quadratic
    scaled: bool
    outer: JointBasis | None
    inner: JointBasis | None
    size: tuple[int, int]

    def enter(self, X: Tensor) -> Tensor:
        """Into these coordinates: Uᵀ X V."""
        if self.outer is not None:
            X = self.outer.rotate(X)
        return pad_both(X) if self.scaled else X

    def leave(self, Y: Tensor) -> Tensor:
        """Out of them: U Y Vᵀ."""
        if self.scaled:
            rows, columns = self.size
            left, right = (None, None) if self.outer is None else (self.outer.left, self.outer.right)
            Y = Y[:, : rows if left is None else None, : columns if right is None else None]
        return Y if self.outer is None else self.outer.rotate_back(Y)

    def select(self, index: Index) -> Coordinates:
        """For some of the systems."""
        outer, inner = (None if basis is None else basis.select(index) for basis in (self.outer, self.inner))
        return Coordinates(self.quadratic.select(index), self.scaled, outer, inner, self.size)


def make_coordinates(
    quadratic: Quadratic, scale: Tensor, basis: JointBasis | None, dtype: torch.dtype, iterations: int
) -> Coordinates:
    """Coordinates for iterates of one dtype.

    Args:
        quadratic: Σ λ C.
        scale: Σ λ mean diagonal [L].
        basis: the joint eigenbasis in `dtype`; None for plain conjugate gradients.
        dtype: of the iterates.
        iterations: most iterations of a system.
    """
    source, damping = (
        (quadratic.undamped, quadratic.strength) if isinstance(quadratic, DampedQuadratic) else (quadratic, 0.0)
    )
    if not isinstance(source, KroneckerQuadratic) or not can_fold(source) or (basis is None and damping == 0):
        return Coordinates(quadratic.to(dtype=dtype), False, None, basis, quadratic.shape[1:])
    outer = None if basis is None else _worth_rotating(basis, source, min(iterations, EXPECTED_ITERATIONS))
    left, right = (None, None) if outer is None else (outer.left, outer.right)
    folded = fold(source.to(dtype=dtype), left, right, scale, damping)
    inner = None
    if basis is not None:
        inner = replace(
            basis,
            left=None if left is not None or basis.left is None else pad_both(basis.left),
            right=None if right is not None or basis.right is None else pad_both(basis.right),
            curvature=pad_both(basis.curvature),
            undamped=None,
        )
    return Coordinates(folded, True, outer, inner, quadratic.shape[1:])


def _worth_rotating(basis: JointBasis, source: KroneckerQuadratic, iterations: int) -> JointBasis | None:
    """The basis with the sides alone that are worth it: 4 m n³ operations once, 4 n² · (other side) in an iteration."""
    _, rows, columns = source.shape
    left = basis.left if source.models * rows <= iterations * columns else None
    right = basis.right if source.models * columns <= iterations * rows else None
    left, right = (None if side is None else pad_last(side) for side in (left, right))
    return None if left is None and right is None else replace(basis, left=left, right=right, undamped=None)
