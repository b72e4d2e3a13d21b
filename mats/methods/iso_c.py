"""Isotropic merging in the common subspace, Iso-C (Marczak et al., ICML 2025, arXiv 2502.04959, section 4).

For each weight matrix, with the summed task vectors Σ_i τ_i = U diag(σ) Vᵀ:

    θ0 + scale · σ̄ U Vᵀ          σ̄: the mean of σ

so that no direction of the sum is louder than another. Every tensor that is not a matrix takes the mean task vector,
times the same scale, as in the authors' code. Convolutions are unfolded (there: averaged), embeddings and output heads
over a vocabulary averaged, and directions in which the sum is only rounding are left out, of the mean as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from mats.methods.spectral import SpectralMerge, SpectralSettings, leading_components

if TYPE_CHECKING:
    from torch import Tensor


class IsoCSettings(SpectralSettings):
    """Iso-C: the summed task vectors with all singular values replaced by their mean (arXiv 2502.04959)."""

    method: Literal["iso_c"] = "iso_c"

    def build(self, model_weights: Sequence[float]) -> IsoCMerge:
        """Iso-C on models with these weights, which multiply the task vectors."""
        return IsoCMerge(self, model_weights)


class IsoCMerge(SpectralMerge):
    """Holds the sum alone, one model at a time."""

    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        total: Tensor | None = None
        for change in task_vectors:
            total = change if total is None else total.add_(change)
            del change
        assert total is not None  # `numbered` has checked the number of models
        left, values, right = leading_components(total, min(total.shape))
        return left @ right.mT * (values.mean() if len(values) else 0.0)
