"""Isotropic merging in common and task-specific subspaces, Iso-CTS (Marczak et al., ICML 2025, arXiv 2502.04959).

For each weight matrix with r = min(out, in), m models and τ = Σ_i τ_i:

    common         the k largest singular components U_c Σ_c V_cᵀ of τ, k ≈ common_share · r
    task-specific  of each τ_i − U_c U_cᵀ τ_i the (r − k) ÷ m largest components U_i Σ_i V_iᵀ
    orthogonalise  Û, V̂: the nearest matrices with orthonormal columns to [U_1 … U_m U_c], [V_1 … V_m V_c]
    merge          θ0 + scale · σ̄ Û V̂ᵀ          σ̄: the mean of all singular values kept

k is chosen, as in the authors' code, so that m divides r − k: with s = ⌊common_share · r⌋ there are
m · round((r − s) / m) task-specific components. Every tensor that is not a matrix takes the mean task vector, times
the same scale. As with `iso_c`, convolutions are unfolded and components that are only rounding are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mats.methods.spectral import SpectralMerge, SpectralSettings, leading_components, nearest_orthonormal

if TYPE_CHECKING:
    from torch import Tensor


class IsoCtsSettings(SpectralSettings):
    """Iso-CTS: Iso-C in the leading directions of the sum, and room for each task's own beside (arXiv 2502.04959)."""

    method: Literal["iso_cts"] = "iso_cts"
    common_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of a matrix's directions taken from the sum, the rest from single tasks; default 0.8.",
    )

    @property
    def copies_per_model(self) -> int:
        """Task vectors in float64."""
        return 2

    def build(self, model_weights: Sequence[float]) -> IsoCtsMerge:
        """Iso-CTS on models with these weights, which multiply the task vectors."""
        return IsoCtsMerge(self, model_weights)


class IsoCtsMerge(SpectralMerge):
    """Holds the task vectors of one matrix of all models: the sum must be known before each is looked at again."""

    settings: IsoCtsSettings

    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        import torch

        changes = list(task_vectors)
        rank = min(changes[0].shape)
        of_each = _task_components(rank, self.settings.common_share, len(changes))
        total = changes[0].clone()
        for change in changes[1:]:
            total.add_(change)
        common = leading_components(total, rank - of_each * len(changes))
        parts = []
        for change in changes:
            own = change - common[0] @ (common[0].mT @ change)
            # relative to the change itself: what is left of one that lies in the common space is rounding
            if of_each > 0 and own.square().sum() > NOTHING_LEFT**2 * change.square().sum():
                parts.append(leading_components(own, of_each))
        parts.append(common)
        values = torch.cat([values for _, values, _ in parts])
        if not len(values):
            return torch.zeros_like(changes[0])
        left = nearest_orthonormal(torch.cat([left for left, _, _ in parts], dim=1))
        right = nearest_orthonormal(torch.cat([right for _, _, right in parts], dim=1))
        return left @ right.mT * values.mean()


NOTHING_LEFT = 1e-6
"""A task vector's share outside the common space below which it is rounding of stored weights."""


def _task_components(rank: int, common_share: float, models: int) -> int:
    """How many directions each task has to itself."""
    wanted = round((rank - int(rank * common_share)) / models)
    return min(wanted, rank // models)
