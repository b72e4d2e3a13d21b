"""C_i = I: the quadratic of the plain (weighted) average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.quadratics.base import FactorSums, Index, Quadratic, Sides


class IdentityQuadratic(Quadratic):
    """C_i X = X for every model; the minimiser is the weighted average of the targets.

    Args:
        weights: λ [m].
        shape: (L, out, in).
        device: where it is applied.
        dtype: the dtype it claims to be held in.
    """

    def __init__(
        self,
        weights: Sequence[float] | Tensor,
        shape: tuple[int, int, int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(weights, shape)
        self._device = torch.device(device)
        self._dtype = dtype

    @property
    def dtype(self) -> torch.dtype:
        """As given."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """As given."""
        return self._device

    @property
    def sides(self) -> Sides:
        """Diagonal in every basis."""
        return Sides("absent", "absent", exact=True)

    def apply_model(self, model: int, X: Tensor) -> Tensor:  # noqa: ARG002
        """X itself, as a new tensor."""
        return X.clone()

    def apply(self, X: Tensor) -> Tensor:
        """(Σ λ_i) X."""
        return X * sum(self.weights)

    def mean_diagonals(self) -> Tensor:
        """Ones [m, L]."""
        return torch.ones(self.models, self.shape[0], dtype=torch.float64, device=self.device)

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ λ_i everywhere, in any orthonormal basis."""
        basis = left_basis if left_basis is not None else right_basis
        dtype = torch.float64 if basis is None else basis.dtype
        return torch.full(self.shape, sum(self.weights), dtype=dtype, device=self.device)

    def select(self, index: Index) -> IdentityQuadratic:
        """On some of the systems."""
        systems = len(range(self.shape[0])[index]) if isinstance(index, slice) else len(index)
        return IdentityQuadratic(self.weights, (systems, *self.shape[1:]), device=self.device, dtype=self.dtype)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> IdentityQuadratic:
        """Elsewhere, or in another dtype."""
        return IdentityQuadratic(self.weights, self.shape, device=device or self.device, dtype=dtype or self.dtype)

    def factor_sums(self) -> FactorSums:
        """No factors: diagonal in every basis."""
        return FactorSums()

    def check_values(self) -> None:
        """Nothing to check."""
