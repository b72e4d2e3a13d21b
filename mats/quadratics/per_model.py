"""Curvatures that do not fit into memory together: one model's at a time, made anew whenever it is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from mats.quadratics.base import FactorSums, Index, Quadratic, Sides
from mats.quadratics.damped import DampedQuadratic
from mats.quadratics.kronecker import KroneckerQuadratic
from mats.quadratics.total import SumQuadratic


class PerModelQuadratic(Quadratic):
    """Σ_i λ_i C_i, each C_i read from wherever it lies when its turn comes, and forgotten.

    Args:
        read: gives model i's curvature as a quadratic of that one model with weight λ_i; the same each time.
        weights: λ [m].
    """

    def __init__(self, read: Callable[[int], Quadratic], weights: Sequence[float]) -> None:
        first = read(0)
        super().__init__(weights, first.shape)
        self._read = read
        self._dtype, self._device = first.dtype, first.device
        alone = first.sides
        self._sides = Sides(alone.left, alone.right, alone.exact and (self.models == 1 or _exact_for_several(first)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the curvatures as they are read."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where they are read to."""
        return self._device

    @property
    def sides(self) -> Sides:
        """As one model's; what is exact for one alone may not be for several."""
        return self._sides

    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """C_i X."""
        return self._read(model).apply_model(0, X)

    def mean_diagonals(self) -> Tensor:
        """Each model's."""
        return torch.cat([self._read(model).mean_diagonals() for model in range(self.models)])

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ over the models, whose own are weighted already."""
        total = self._read(0).diagonal(left_basis, right_basis)
        for model in range(1, self.models):
            total = total + self._read(model).diagonal(left_basis, right_basis)
        return total

    def select(self, index: Index) -> PerModelQuadratic:
        """On some of the systems."""
        return PerModelQuadratic(lambda model: self._read(model).select(index), self.weights)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PerModelQuadratic:
        """Elsewhere or in another dtype, from the next reading on."""
        if torch.device(device or self.device) == self.device and (dtype or self.dtype) == self.dtype:
            return self
        return PerModelQuadratic(lambda model: self._read(model).to(device, dtype), self.weights)

    def factor_sums(self) -> FactorSums:
        """The models' factors added up, as `KroneckerQuadratic.factor_sums` does of all at once.

        One model's are w G ÷ tr G and w A ÷ tr A, so that w = √(λ tr G tr A) is the trace of either.
        """
        return reduce(_added, (self._read(model).factor_sums() for model in range(self.models)), None) or FactorSums()

    def check_values(self) -> None:
        """Every model's own check."""
        for model in range(self.models):
            self._read(model).check_values()

    def damped(self, strength: float) -> DampedQuadratic | None:
        """With factored damping, whose parts are sums over the models too; None where a factor is absent."""
        parts = []
        for model in range(self.models):
            own = self._read(model)
            if not isinstance(own, KroneckerQuadratic) or own.left is None or own.right is None:
                return None
            parts.append(DampedQuadratic(own, strength).parts)
        left, right = (torch.stack(side).sum(dim=0) for side in zip(*parts, strict=True))
        return DampedQuadratic.of_parts(self, strength, left, right)


def _exact_for_several(one: Quadratic) -> bool:
    """Whether Σ over models like this one, which is exact alone, is diagonal in a joint eigenbasis."""
    if isinstance(one, SumQuadratic):
        return all(map(_exact_for_several, one.terms))
    acting = (one.sides.left, one.sides.right)
    return not isinstance(one, KroneckerQuadratic) or "absent" in acting or "dense" not in acting


def _added(total: FactorSums | None, own: FactorSums) -> FactorSums:
    """Σ of left and right factors; the product's scale is Σ w² ÷ (Σ w)², held as Σ w² until the sums are complete."""
    if total is None:
        return own
    left = None if total.left is None or own.left is None else total.left + own.left
    right = None if total.right is None or own.right is None else total.right + own.right
    if total.product_scale is None or own.product_scale is None or left is None:
        return FactorSums(left, right)
    shares = [_trace(part.left) for part in (total, own)]
    squares = total.product_scale * shares[0].square() + own.product_scale * shares[1].square()
    whole = shares[0] + shares[1]
    return FactorSums(left, right, torch.where(whole > 0, squares / whole.square(), 0.0))


def _trace(matrices: Tensor | None) -> Tensor:
    assert matrices is not None
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
