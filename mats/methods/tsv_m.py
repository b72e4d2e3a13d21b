"""Task Singular Vectors merging, TSV-M (Gargiulo et al., CVPR 2025, arXiv 2412.00081, algorithm 1).

For each weight matrix, with task vectors τ_i = U_i Σ_i V_iᵀ of m models and r = min(out, in):

    keep          the r ÷ m largest singular components of each model (rounded down, at least one)
    concatenate   U = [U_1 … U_m], V = [V_1 … V_m], Σ = diag(Σ_1, …, Σ_m)
    decorrelate   Û, V̂: the nearest matrices with orthonormal columns (Procrustes)
    merge         θ0 + scale · Û Σ V̂ᵀ

Every tensor that is not a matrix takes the mean task vector, times the same scale, as in the authors' code. It
differs from that code in three things: convolutions are unfolded (there: averaged); embeddings and output heads over a
vocabulary are averaged (there: the `text_projection` of CLIP alone); components that are rounding are left out, since
their arbitrary directions would turn the others in the third step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from mats.methods.spectral import SpectralMerge, SpectralSettings, leading_components, nearest_orthonormal

if TYPE_CHECKING:
    from torch import Tensor


class TsvMSettings(SpectralSettings):
    """TSV-M: each model's leading singular vectors, made orthogonal to the others' (arXiv 2412.00081)."""

    method: Literal["tsv_m"] = "tsv_m"

    def build(self, model_weights: Sequence[float]) -> TsvMMerge:
        """TSV-M on models with these weights, which multiply the task vectors."""
        return TsvMMerge(self, model_weights)


class TsvMMerge(SpectralMerge):
    """Holds the kept components of all models: as many numbers as two matrices, however many models there are."""

    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        import torch

        lefts, values, rights = [], [], []
        for change in task_vectors:
            count = max(1, min(change.shape) // len(self.weights))
            left, sigma, right = leading_components(change, count)
            lefts.append(left)
            values.append(sigma)
            rights.append(right)
            shape = change.shape
            del change
        if not any(len(sigma) for sigma in values):
            return torch.zeros(shape, dtype=torch.float64)
        left = nearest_orthonormal(torch.cat(lefts, dim=1))
        right = nearest_orthonormal(torch.cat(rights, dim=1))
        return (left * torch.cat(values)) @ right.mT
