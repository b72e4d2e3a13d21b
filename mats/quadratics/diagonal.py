"""C_i = diag(F_i): the quadratic of diagonal Fisher merging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.errors import ShapeMismatch
from mats.quadratics.base import FactorSums, Index, Quadratic, Sides
from mats.quadratics.checks import check_nonnegative, check_stack


class DiagonalQuadratic(Quadratic):
    """C_i X = F_i ∘ X, elementwise.

    Args:
        diagonals: F [m, L, out, in], at least 0: mean over the examples of each model of squared per-example gradients.
        weights: λ [m]; None: all 1.

    Raises:
        ShapeMismatch, RequestError: as said in `mats.quadratics.checks`.
    """

    def __init__(self, diagonals: Tensor, weights: Sequence[float] | Tensor | None = None) -> None:
        check_stack("diagonals", diagonals, [(None, None, None, None)])
        models, systems, rows, columns = diagonals.shape
        super().__init__([1.0] * models if weights is None else weights, (systems, rows, columns))
        if models != self.models:
            raise ShapeMismatch(f"{models} diagonals for {self.models} model weights; expected one per model")
        self.diagonals = diagonals
        self._total: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the diagonals."""
        return self.diagonals.dtype

    @property
    def device(self) -> torch.device:
        """Of the diagonals."""
        return self.diagonals.device

    @property
    def sides(self) -> Sides:
        """Diagonal in the standard basis."""
        return Sides("standard", "standard", exact=True)

    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """F_i ∘ X."""
        return X * self.diagonals[model].to(X.dtype)

    def apply(self, X: Tensor) -> Tensor:
        """(Σ λ_i F_i) ∘ X; the sum is formed once, in float64, and kept in the diagonals' dtype."""
        if X.dtype != self.dtype:
            return super().apply(X)
        if self._total is None:
            self._total = self.diagonal().to(self.dtype)
        return X * self._total

    def mean_diagonals(self) -> Tensor:
        """Means over the entries of each F_i."""
        return self.diagonals.mean(dim=(2, 3), dtype=torch.float64)

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ λ_i F_i; in another basis, its entries weighted by squared coordinates."""
        basis = left_basis if left_basis is not None else right_basis
        total = torch.zeros(self.shape, dtype=torch.float64 if basis is None else basis.dtype, device=self.device)
        for model, weight in enumerate(self.weights):
            total.add_(self.diagonals[model].to(total.dtype), alpha=weight)
        if left_basis is not None:
            total = left_basis.square().mT @ total
        if right_basis is not None:
            total = total @ right_basis.square()
        return total

    def select(self, index: Index) -> DiagonalQuadratic:
        """On some of the systems."""
        return DiagonalQuadratic(self.diagonals[:, index], self.weights)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> DiagonalQuadratic:
        """Elsewhere, or in another dtype."""
        moved = self.diagonals.to(device=device or self.device, dtype=dtype or self.dtype)
        return self if moved is self.diagonals else DiagonalQuadratic(moved, self.weights)

    def factor_sums(self) -> FactorSums:
        """No factors: diagonal in the standard basis."""
        return FactorSums()

    def check_values(self) -> None:
        """Finite and not negative."""
        for model in range(self.models):
            for system in range(self.shape[0]):
                name = f"diagonal of model {model}, system {system}"
                check_nonnegative(name, self.diagonals[model, system].flatten())
