"""KnOTS (Stoica et al., ICLR 2025, arXiv 2410.19735): TIES in a basis that the updates of one layer share.

For each weight matrix, with the updates of m models (of LoRA: their low-rank products, scaling included) side by side:

    [τ_1 … τ_m] = U Σ [V_1ᵀ … V_mᵀ]          the singular value decomposition of [out, m · in]
    V = TIES(V_1, …, V_m)                    trimmed, elected and averaged as by `ties`, one matrix alone
    θ0 + scale · U Σ Vᵀ

With the mean in place of TIES it is the mean of the updates. The joint rank is at most the sum of the updates' ranks,
so of LoRA of rank r no more than m · r directions are looked at. Every tensor that is not a matrix, embeddings and
heads over a vocabulary take the mean task vector, times the same scale. The authors trim over all layers at once; here
each matrix is trimmed alone, so that one is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mats.methods.spectral import SpectralMerge, SpectralSettings, leading_components
from mats.methods.ties import TiesSettings

if TYPE_CHECKING:
    from torch import Tensor


class KnotsSettings(SpectralSettings):
    """KnOTS: TIES among the coordinates of updates in their joint singular basis, as for LoRA (arXiv 2410.19735)."""

    method: Literal["knots"] = "knots"
    density: float = Field(
        default=0.2, gt=0, le=1, description="Share of each model's coordinates that is kept, in (0, 1]; default 0.2."
    )
    elect: Literal["mass", "norm_fraction", "norm_mass", "none"] = Field(
        default="mass", description="Who decides a coordinate's sign, as with ties; default mass."
    )
    aggregate: Literal["disjoint_mean", "disjoint_sum", "disjoint_max", "mean", "sum", "median", "magnitude"] = Field(
        default="disjoint_mean", description="What becomes of a coordinate, as with ties; default disjoint_mean."
    )

    @property
    def copies_per_model(self) -> int:
        """Updates in float64, alone, side by side, and as their coordinates before and after scaling."""
        return 8

    def build(self, model_weights: Sequence[float]) -> KnotsMerge:
        """KnOTS on models with these weights."""
        return KnotsMerge(self, model_weights)


class KnotsMerge(SpectralMerge):
    """Holds the updates of one matrix of all models."""

    settings: KnotsSettings

    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        import torch

        # weights count in the vote, not in the basis
        changes = [change / weight for change, weight in zip(task_vectors, self.weights, strict=True)]
        shape = changes[0].shape
        left, values, right = leading_components(torch.cat(changes, dim=1), sum(min(each.shape) for each in changes))
        if not len(values):
            return torch.zeros(shape, dtype=torch.float64)
        own = list(right.split(shape[1]))
        return (left * values) @ self._coordinates(own).mT

    def _coordinates(self, own: Sequence[Tensor]) -> Tensor:
        """TIES of V_1 … V_m [in, k]; signs are taken of fp32 coordinates, as everywhere in TIES."""
        import torch

        settings = self.settings
        ties = TiesSettings(
            density=settings.density,
            elect=settings.elect,
            aggregate=settings.aggregate,
            trim_scope="tensor",
            zero_votes="zero" if settings.elect != "none" else "majority",
        ).build(self.weights)
        zero = torch.zeros(own[0].shape, dtype=torch.float64)
        return ties.merge("V", zero, (each.contiguous() for each in own))
