"""WUDI merging in closed form (Cheng et al., ICML 2025, arXiv 2503.08099): RegMean with Grams made of task vectors.

The paper minimises, for each weight matrix with task vectors τ_i [out, in],

    Σ_i w_i ‖(τ − τ_i) τ_iᵀ‖² / ‖τ_i‖²          over τ, from the start τ° = Σ_i w_i τ_i

since the rows of a task vector span the inputs that it was trained on. That is RegMean's objective with the proxy Gram
A_i = τ_iᵀ τ_i / ‖τ_i‖², and like it has a closed form:

    τ = τ° + (Σ_i w_i (τ_i − τ°) A_i) (Σ_i w_i A_i + μ I)⁺          μ = anchor · Σ_i w_i tr A_i / in

Directions that no task vector has keep the start. The authors take some hundred steps of Adam instead; stopped early
they stay nearer to τ°, which is what `anchor` above 0 does here: on the demo's six digit models (seed 0, validation)
anchors 0, 0.001, 0.01, 0.1 and 1 have mean accuracies of 77.2, 77.8, 80.3, 81.1 and 77.7 %; task arithmetic 76.6 %.

Every tensor that is not a matrix takes the mean task vector; weights must be above 0 for the sum to be convex.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.methods.settings import AllowedWeights
from mats.methods.spectral import SpectralMerge, SpectralSettings

if TYPE_CHECKING:
    from torch import Tensor

NEGLIGIBLE = 1e-10
"""Eigenvalues of Σ A_i below this share of the largest are rounding: no task vector has their directions."""


class WudiSettings(SpectralSettings):
    """WUDI: each task's outputs kept on the inputs that its own update tells of, in closed form (arXiv 2503.08099)."""

    allowed_weights: ClassVar[AllowedWeights] = "positive"
    method: Literal["wudi"] = "wudi"
    anchor: float = Field(
        default=0.1,
        ge=0,
        description="Pull toward the summed task vectors, relative to the mean eigenvalue; 0 is none, default 0.1.",
    )
    transposed: tuple[str, ...] = Field(
        default=(),
        description="Patterns of matrices stored as [in, out], whose inputs are rows: '*.c_*.weight' for GPT-2.",
    )

    def build(self, model_weights: Sequence[float]) -> WudiMerge:
        """WUDI on models with these weights."""
        return WudiMerge(self, model_weights)


class WudiMerge(SpectralMerge):
    """Holds three sums of a matrix's size (or [in, in]), one model at a time."""

    settings: WudiSettings

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        self._turned = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.settings.transposed)
        return super().merge(name, base, models)

    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        import torch

        sums: tuple[Tensor, Tensor, Tensor] | None = None
        for weight, weighted in zip(self.weights, task_vectors, strict=True):
            change = (weighted.mT if self._turned else weighted) / weight
            if sums is None:
                sums = torch.zeros_like(change), torch.zeros_like(change), change.new_zeros((change.shape[1],) * 2)
            start, target, gram = sums
            start.add_(change, alpha=weight)
            squared = float(change.square().sum())
            if squared > 0:  # a model that did not move tells of no inputs
                own = (change.mT @ change).mul_(weight / squared)
                gram.add_(own)
                target.addmm_(change, own)
            del weighted, change
        assert sums is not None  # `numbered` has checked the number of models
        start, target, gram = sums
        merged = solved(gram, target.sub_(start @ gram), self.settings.anchor).add_(start)
        return merged.mT if self._turned else merged


def solved(gram: Tensor, right: Tensor, anchor: float) -> Tensor:
    """right · (gram + μ I)⁺ with μ = anchor · mean eigenvalue; 0 along directions that the gram does not have.

    Args:
        gram: [in, in] float64, symmetric, positive semi-definite.
        right: [out, in] float64.
        anchor: at least 0.
    """
    import torch

    values, vectors = torch.linalg.eigh(gram)
    seen = values > NEGLIGIBLE * values[-1:].clamp(min=0)
    vectors, values = vectors[:, seen], values[seen]
    return ((right @ vectors) / (values + anchor * float(gram.trace()) / len(gram))) @ vectors.mT
