"""A batch of K-FAC systems as every contender gets it, and the judge of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.quadratics.damped import DampedQuadratic


@dataclass(frozen=True)
class Batch:
    """L systems Σ λ (G + s ḡ I) Δ (A + s ā I) = Σ λ G (W − x0) A, with s the factored damping.

    Attributes:
        name: for tables.
        quadratic: the undamped curvatures.
        targets: W_i, m tensors [L, out, in].
        start: x0 [L, out, in].
        damping: s.
    """

    name: str
    quadratic: KroneckerQuadratic
    targets: Sequence[Tensor]
    start: Tensor
    damping: float

    @property
    def systems(self) -> int:
        """L."""
        return self.quadratic.shape[0]

    @property
    def operator(self) -> KroneckerQuadratic | DampedQuadratic:
        """The product's own left-hand side."""
        return DampedQuadratic(self.quadratic, self.damping) if self.damping else self.quadratic

    def select(self, systems: Sequence[int]) -> Batch:
        """Some of the systems."""
        if list(systems) == list(range(self.systems)):
            return self
        index = torch.tensor(list(systems), dtype=torch.int64)
        targets = [target[index] for target in self.targets]
        return Batch(self.name, self.quadratic.select(index), targets, self.start[index], self.damping)

    def factors(self, system: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """λ (G + s ḡ I) and A + s ā I of every model, matrices or diagonals."""
        left, right = self.quadratic.left, self.quadratic.right
        assert left is not None
        assert right is not None
        pairs = []
        for model, weight in enumerate(self.quadratic.weights):
            G, A = (_damped(stack[model, system].to(dtype), self.damping) for stack in (left, right))
            pairs.append((weight * G, A))
        return pairs

    def rhs(self, system: int) -> Tensor:
        """b = Σ λ G (W − x0) A of one system, float64 [out, in]."""
        undamped = Batch(self.name, self.quadratic, self.targets, self.start, 0.0)
        start = self.start[system].double()
        pairs = undamped.factors(system, torch.float64)
        return sum_of_products(pairs, [target[system].double() - start for target in self.targets])

    def residual(self, system: int, correction: Tensor) -> Tensor:
        """b − Σ λ (G + s ḡ I) Δ (A + s ā I), float64, model by model, without any operator of the product."""
        pairs = self.factors(system, torch.float64)
        return self.rhs(system) - sum_of_products(pairs, [correction.double()] * len(pairs))

    def true_residual(self, system: int, correction: Tensor) -> float:
        """‖residual‖ ÷ ‖b‖ of one system."""
        norm = float(self.rhs(system).norm())
        residual = float(self.residual(system, correction).norm())
        return residual / norm if norm > 0 else residual


def sum_of_products(pairs: Sequence[tuple[Tensor, Tensor]], matrices: Sequence[Tensor]) -> Tensor:
    """Σ_i G_i X_i A_i."""
    total = torch.zeros_like(matrices[0])
    for (G, A), X in zip(pairs, matrices, strict=True):
        product = G @ X if G.dim() == 2 else G[:, None] * X
        total += product @ A if A.dim() == 2 else product * A
    return total


def _damped(factor: Tensor, strength: float) -> Tensor:
    """X + s x̄ I of a matrix or a diagonal, a copy."""
    factor = factor.clone()
    diagonal = factor.diagonal() if factor.dim() == 2 else factor
    diagonal += strength * diagonal.mean(dtype=torch.float64).to(factor.dtype)
    return factor
