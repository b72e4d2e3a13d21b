"""The operator and the preconditioner that an iteration sees: one system in its own unit, mean diagonal 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.quadratics.base import Index
from mats.solvers.basis import JointBasis, negligible

Hidden = Literal["floored", "spared", "cautious"]
"""What a preconditioner does in coordinates that no model is known to see."""


@dataclass(frozen=True)
class System:
    """X ↦ (Σ λ C ÷ scale + νI) X, with ν = μ ÷ scale.

    Dividing by the scale keeps float32 from underflow: statistics span 1e-12 … 1e6, and inner products square that.

    Attributes:
        quadratic: Σ λ C in the dtype of the products.
        inverse_scale: 1 ÷ scale [L, 1, 1], in the dtype of X; 0 where the scale is. None: the quadratic has it already.
        shift: ν [L, 1, 1], likewise.
        products: dtype of the products; None: the quadratic's. A wider one widens its factors as they are used.
    """

    quadratic: Quadratic
    inverse_scale: Tensor | None
    shift: Tensor
    products: torch.dtype | None = None

    def apply(self, X: Tensor) -> Tensor:
        """[L, out, in] → [L, out, in]."""
        product = self.quadratic.apply(X.to(self.products or self.quadratic.dtype)).to(X.dtype)
        if self.inverse_scale is not None:
            product.mul_(self.inverse_scale)
        return product.addcmul_(X, self.shift)

    def select(self, index: Index) -> System:
        """For some of the systems."""
        inverse = None if self.inverse_scale is None else self.inverse_scale[index]
        return System(self.quadratic.select(index), inverse, self.shift[index], self.products)


def make_system(
    quadratic: Quadratic,
    scale: Tensor | None,
    shift: Tensor,
    dtype: torch.dtype,
    products: torch.dtype | None = None,
) -> System:
    """The system with iterates in `dtype`. scale (None: the quadratic is divided by it already), shift: [L] float64."""
    inverse = None
    if scale is not None:
        inverse = torch.where(scale > 0, 1.0 / scale, 0.0).to(dtype)[:, None, None]
    return System(quadratic, inverse, shift.to(dtype)[:, None, None], products)


@dataclass(frozen=True)
class Preconditioner:
    """R ↦ (M + νI)⁻¹ R in the joint eigenbasis.

    Attributes:
        basis: in the dtype of R.
        inverse: 1 ÷ (curvature + ν) [L, out, in]; 0 in coordinates that are to stay at the start.
        largest: the largest curvature + ν [L], where some coordinates may stay: √(⟨R, M⁻¹R⟩ · largest) is at least the
            norm of R on all others. None: none stays.
    """

    basis: JointBasis
    inverse: Tensor
    largest: Tensor | None = None

    def apply(self, R: Tensor) -> Tensor:
        """[L, out, in] → [L, out, in]."""
        return self.basis.rotate_back(self.basis.rotate(R) * self.inverse)

    def select(self, index: Index) -> Preconditioner:
        """For some of the systems."""
        largest = None if self.largest is None else self.largest[index]
        return Preconditioner(self.basis.select(index), self.inverse[index], largest)


def make_preconditioner(basis: JointBasis, shift: Tensor, cutoff: float, hidden: Hidden = "floored") -> Preconditioner:
    """The preconditioner for a shift ν [L].

    M itself may be singular, so the eigenvalues of each of its two factors are floored at `cutoff` × the largest of
    that factor. Not their products: those of good eigenvalues of two real factors span 1e-9 and more, and flooring them
    at the cutoff took 5 times as many iterations.

    Args:
        basis: M's.
        shift: ν [L].
        cutoff: relative, on each factor.
        hidden: where ν = 0, what becomes of coordinates below the cutoff: moved by the floor, left at the start
            (`spared`), or moved as if the curvature there were the largest (`cautious`).
    """
    curvature = basis.curvature
    rows, columns = curvature.amax(dim=2, keepdim=True), curvature.amax(dim=1, keepdim=True)
    largest = rows.amax(dim=1, keepdim=True)
    floored = curvature.maximum(cutoff * rows).maximum(cutoff * columns).maximum(cutoff**2 * largest)
    anchored = floored + shift.to(curvature.dtype)[:, None, None]
    inverse = torch.where(anchored > 0, 1.0 / anchored, 1.0)
    if hidden == "floored":
        return Preconditioner(basis, inverse)
    below = negligible(curvature, cutoff) & (shift == 0)[:, None, None]
    if hidden == "spared":
        return Preconditioner(basis, inverse.masked_fill(below, 0.0), anchored.amax(dim=(1, 2)))
    return Preconditioner(basis, torch.where(below & (largest > 0), 1.0 / largest, inverse))
