"""The operator and the preconditioner that an iteration sees: one system in its own unit, mean diagonal 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.quadratics.base import Index
from mats.solvers.basis import JointBasis


@dataclass(frozen=True)
class System:
    """X ↦ (Σ λ C ÷ scale + νI) X, with ν = μ ÷ scale.

    Dividing by the scale keeps float32 from underflow: statistics span 1e-12 … 1e6, and inner products square that.

    Attributes:
        quadratic: Σ λ C in the dtype of the products.
        inverse_scale: 1 ÷ scale [L, 1, 1], in the dtype of X; 0 where the scale is. None: the quadratic has it already.
        shift: ν [L, 1, 1], likewise.
    """

    quadratic: Quadratic
    inverse_scale: Tensor | None
    shift: Tensor

    def apply(self, X: Tensor) -> Tensor:
        """[L, out, in] → [L, out, in]."""
        product = self.quadratic.apply(X.to(self.quadratic.dtype)).to(X.dtype)
        if self.inverse_scale is not None:
            product.mul_(self.inverse_scale)
        return product.addcmul_(X, self.shift)

    def select(self, index: Index) -> System:
        """For some of the systems."""
        inverse = None if self.inverse_scale is None else self.inverse_scale[index]
        return System(self.quadratic.select(index), inverse, self.shift[index])


def make_system(quadratic: Quadratic, scale: Tensor | None, shift: Tensor, dtype: torch.dtype) -> System:
    """The system with iterates in `dtype`. scale (None: the quadratic is divided by it already), shift: [L] float64."""
    inverse = None
    if scale is not None:
        inverse = torch.where(scale > 0, 1.0 / scale, 0.0).to(dtype)[:, None, None]
    return System(quadratic, inverse, shift.to(dtype)[:, None, None])


@dataclass(frozen=True)
class Preconditioner:
    """R ↦ (M + νI)⁻¹ R in the joint eigenbasis.

    Attributes:
        basis: in the dtype of R.
        inverse: 1 ÷ (curvature + ν) [L, out, in].
    """

    basis: JointBasis
    inverse: Tensor

    def apply(self, R: Tensor) -> Tensor:
        """[L, out, in] → [L, out, in]."""
        return self.basis.rotate_back(self.basis.rotate(R) * self.inverse)

    def select(self, index: Index) -> Preconditioner:
        """For some of the systems."""
        return Preconditioner(self.basis.select(index), self.inverse[index])


def make_preconditioner(basis: JointBasis, shift: Tensor, cutoff: float) -> Preconditioner:
    """The preconditioner for a shift ν [L].

    Where ν = 0 the curvature is floored at `cutoff` × its largest value: M itself may be singular.
    """
    largest = basis.curvature.amax(dim=(1, 2), keepdim=True)
    floored = torch.maximum(basis.curvature, cutoff * largest)
    anchored = floored + shift.to(floored.dtype)[:, None, None]
    return Preconditioner(basis, torch.where(anchored > 0, 1.0 / anchored, 1.0))
