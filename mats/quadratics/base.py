"""What every quadratic offers: m curvatures C_i as linear operators, batched over L systems of one shape.

A *system* is one weight matrix X [out, in]; systems of one shape are stacked, X [L, out, in], and share nothing but
their shape. The m models contribute one positive semi-definite operator C_i each, with a weight λ_i ≥ 0. Nothing here
forms C_i: it is only ever applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mats.quadratics.checks import check_model_weights, check_system_shape, check_targets

Index = Tensor | slice


Side = Literal["absent", "standard", "dense"]
"""How C acts on one side: not at all (a multiple of I), diagonally in the standard basis, or by dense matrices."""


@dataclass(frozen=True)
class Sides:
    """What is known about a quadratic from its structure, before any number is read.

    Attributes:
        left: how it acts on rows.
        right: how it acts on columns.
        exact: Σ λ C is diagonal in the joint eigenbasis of its factor sums, whatever the numbers.
    """

    left: Side
    right: Side
    exact: bool


@dataclass(frozen=True)
class FactorSums:
    """The left and right factors of a quadratic, each summed over the models: what its joint eigenbasis comes from.

    Attributes:
        left: [L, out, out] float64, or None where left factors are diagonal or absent (the standard basis).
        right: [L, in, in] float64, or None likewise.
        product_scale: [L] float64: Σ λ C ≈ product_scale · left ⊗ right, with the same trace; None where that product
            is not meant as an approximation (the diagonal of Σ λ C in the joint eigenbasis serves instead).
    """

    left: Tensor | None = None
    right: Tensor | None = None
    product_scale: Tensor | None = None


class Quadratic(ABC):
    """Σ_i λ_i · ½ ⟨X − W_i, C_i (X − W_i)⟩ without its targets W_i: the curvatures and their weights.

    Args:
        weights: λ [m], finite and ≥ 0.
        shape: (L, out, in).

    Attributes:
        weights: λ as Python numbers.
        shape: (L, out, in).
    """

    def __init__(self, weights: Sequence[float] | Tensor, shape: tuple[int, int, int]) -> None:
        self.weights = check_model_weights(weights)
        self.shape = check_system_shape(shape)

    @property
    def models(self) -> int:
        """The number of models m."""
        return len(self.weights)

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype in which the statistics are held; X may be wider (then factors are widened one model at a time)."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the statistics are."""

    @property
    @abstractmethod
    def sides(self) -> Sides:
        """How it acts on rows and columns."""

    @abstractmethod
    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """C_i X of one model, without λ_i. X [L, out, in] → [L, out, in], in the dtype of X."""

    @abstractmethod
    def mean_diagonals(self) -> Tensor:
        """tr C_i / (out · in) without λ: [m, L] float64."""

    @abstractmethod
    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """The diagonal of Σ λ_i C_i in the basis of all u_j v_kᵀ: [L, out, in], in the bases' dtype (else float64).

        Args:
            left_basis: [L, out, out], orthonormal columns u_j; None for the standard basis.
            right_basis: [L, in, in], orthonormal columns v_k; None likewise.
        """

    @abstractmethod
    def select(self, index: Index) -> Quadratic:
        """The same quadratic on some of the systems. A slice gives views, an index tensor [K] copies."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Quadratic:
        """The same quadratic elsewhere or in another dtype; the quadratic itself where nothing changes."""

    @abstractmethod
    def factor_sums(self) -> FactorSums:
        """The factors summed over the models, in float64 (for preconditioning and for exact solves)."""

    @abstractmethod
    def check_values(self) -> None:
        """Refuse statistics that are not finite, not symmetric, or plainly not positive semi-definite.

        Raises:
            NonFiniteStatistic: naming statistic, model and system.
            RequestError: asymmetric, or a negative diagonal; likewise.
        """

    def apply(self, X: Tensor) -> Tensor:
        """Σ_i λ_i C_i X. X [L, out, in] → [L, out, in], in the dtype of X."""
        total = torch.zeros_like(X)
        for model, weight in enumerate(self.weights):
            if weight:
                total.add_(self.apply_model(model, X), alpha=weight)
        return total

    def evaluate(self, targets: Sequence[Tensor] | Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the sum at X, and each model's own quadratic there, in one pass over the models.

        Args:
            targets: W_i, m tensors [L, out, in] (or one [m, L, out, in]); widened to the dtype of X one at a time.
            X: [L, out, in].

        Returns:
            Σ_i λ_i C_i (X − W_i) [L, out, in], and ½ ⟨X − W_i, C_i (X − W_i)⟩ [m, L] (without λ), in the dtype of X.
        """
        check_targets(targets, self.models, self.shape)
        gradient = torch.zeros_like(X)
        losses = []
        for model, weight in enumerate(self.weights):
            difference = X - targets[model].to(device=X.device, dtype=X.dtype)
            product = self.apply_model(model, difference)
            losses.append(0.5 * (difference * product).sum(dim=(1, 2)))
            gradient.add_(product, alpha=weight)
        return gradient, torch.stack(losses)

    def rhs(self, targets: Sequence[Tensor] | Tensor, start: Tensor) -> Tensor:
        """Σ_i λ_i C_i (W_i − start) [L, out, in]: the right-hand side for the correction, in the dtype of `start`."""
        return self.evaluate(targets, start)[0].neg_()

    def losses(self, targets: Sequence[Tensor] | Tensor, X: Tensor) -> Tensor:
        """½ ⟨X − W_i, C_i (X − W_i)⟩ [m, L] of each model, without λ, in the dtype of X."""
        return self.evaluate(targets, X)[1]

    def mean_diagonal(self) -> Tensor:
        """Σ_i λ_i tr C_i / (out · in) [L] float64: the unit in which the anchor is measured."""
        diagonals = self.mean_diagonals()
        weights = torch.tensor(self.weights, dtype=torch.float64, device=diagonals.device)
        return weights @ diagonals
