"""Factored damping: K-FAC curvature with a pull toward the start in the metric of its own factors.

Each model's G_i ⊗ A_i becomes (G_i + s ḡ_i I) ⊗ (A_i + s ā_i I) on the left-hand side alone, ḡ_i and ā_i the mean
diagonals (Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", section
6.3, with the traces deciding their π). What is added to Σ λ_i G_i ⊗ A_i,

    D = I ⊗ R + Q ⊗ I,      R = Σ λ_i s ḡ_i A_i,      Q = Σ λ_i s ā_i (G_i + s ḡ_i I),

is one more quadratic, whose target is the start. A pull by a multiple of the identity is the same in every direction;
this one is strong wherever *one* of the factors is large and the other says that nothing matters. It is in those
directions that the product of two measured factors is least to be trusted: an error in the large factor times almost
nothing is almost nothing, and the solution runs away along it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics.base import FactorSums, Index, Quadratic, Sides
from mats.quadratics.factors import diagonal_in_basis, left_product, mean_diagonals, right_product, weighted_sum
from mats.quadratics.kronecker import KroneckerQuadratic


class DampedQuadratic(Quadratic):
    """Σ λ_i G_i ⊗ A_i + D with D as one more model (the last, weight 1), whose target is to be the start.

    Args:
        undamped: K-FAC curvature, both factors present.
        strength: s ≥ 0.

    Raises:
        RequestError: a factor is absent (there the identity's pull, the anchor, is the same thing), or s < 0.
    """

    def __init__(self, undamped: KroneckerQuadratic, strength: float) -> None:
        left, right = undamped.left, undamped.right
        if left is None or right is None:
            raise RequestError("factored damping needs both factors of K-FAC; use an anchor for a single one")
        if not strength >= 0:
            raise RequestError(f"damping is {strength}; expected a number at least 0")
        weights = torch.tensor(undamped.weights, dtype=torch.float64, device=undamped.device)[:, None]
        outputs, inputs = mean_diagonals(left), mean_diagonals(right)  # ḡ, ā: [m, L]
        right_part = weighted_sum(right, weights * strength * outputs)
        left_part = weighted_sum(left, weights * strength * inputs)
        identity = (weights * strength**2 * outputs * inputs).sum(dim=0)[:, None]  # [L, 1]
        (left_part.diagonal(dim1=1, dim2=2) if left_part.dim() == 3 else left_part).add_(identity)
        dtype = undamped.dtype
        self._assign(undamped, strength, left_part.to(dtype), right_part.to(dtype))

    def _assign(self, undamped: Quadratic, strength: float, left_part: Tensor, right_part: Tensor) -> None:
        super().__init__([*undamped.weights, 1.0], undamped.shape)
        self.undamped = undamped
        self.strength = strength
        self._left_part = left_part
        self._right_part = right_part

    @classmethod
    def of_parts(cls, undamped: Quadratic, strength: float, left_part: Tensor, right_part: Tensor) -> DampedQuadratic:
        """From Q and R as they are; sums over models are not formed anew."""
        made = cls.__new__(cls)
        made._assign(undamped, strength, left_part, right_part)
        return made

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Q [L, out, out] and R [L, in, in]; diagonal factors give diagonal parts."""
        return self._left_part, self._right_part

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.undamped.dtype

    @property
    def device(self) -> torch.device:
        """Of the factors."""
        return self.undamped.device

    @property
    def sides(self) -> Sides:
        """As undamped: where Σ λ_i G_i ⊗ A_i is diagonal in a joint eigenbasis, so is D."""
        return self.undamped.sides

    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """G_i X A_i, or D X = Q X + X R for the last."""
        if model < self.undamped.models:
            return self.undamped.apply_model(model, X)
        return left_product(self._left_part.to(X.dtype), X) + right_product(X, self._right_part.to(X.dtype))

    def apply(self, X: Tensor) -> Tensor:
        """Σ λ_i G_i X A_i in its two products, and D X in two more of a single model's size."""
        return self.undamped.apply(X).add_(self.apply_model(self.undamped.models, X))

    def mean_diagonals(self) -> Tensor:
        """The models', and that of D."""
        own = mean_diagonals(self._left_part[None]) + mean_diagonals(self._right_part[None])
        return torch.cat([self.undamped.mean_diagonals(), own])

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ λ_i (u_jᵀ G_i u_j)(v_kᵀ A_i v_k), and the diagonal of D."""
        total = self.undamped.diagonal(left_basis, right_basis)
        return total + self.damping_diagonal(left_basis, right_basis).to(total.dtype)

    def damping_diagonal(self, left_basis: Tensor | None, right_basis: Tensor | None) -> Tensor:
        """u_jᵀ Q u_j + v_kᵀ R v_k, the diagonal of D alone in a basis of columns u_j, v_k: [L, out, in] float64."""
        left, right = (
            diagonal_in_basis(part.to(torch.float64), None if basis is None else basis.to(torch.float64))
            for part, basis in ((self._left_part, left_basis), (self._right_part, right_basis))
        )
        return left[:, :, None] + right[:, None, :]

    def as_kronecker(self) -> KroneckerQuadratic | None:
        """Σ λ_i (G_i + s ḡ_i I) ⊗ (A_i + s ā_i I), the same sum as one K-FAC quadratic, copied; None if not at hand."""
        if not isinstance(self.undamped, KroneckerQuadratic):
            return None
        sides = []
        for stack in (self.undamped.left, self.undamped.right):
            assert stack is not None
            copy = stack.clone()
            diagonal = copy.diagonal(dim1=2, dim2=3) if copy.dim() == 4 else copy
            diagonal.add_((self.strength * mean_diagonals(stack)).to(copy.dtype)[:, :, None])
            sides.append(copy)
        return KroneckerQuadratic(sides[0], sides[1], self.undamped.weights, shape=self.shape)

    def select(self, index: Index) -> DampedQuadratic:
        """On some of the systems."""
        parts = self._left_part[index], self._right_part[index]
        return self.of_parts(self.undamped.select(index), self.strength, *parts)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> DampedQuadratic:
        """Elsewhere, or in another dtype."""
        moved = self.undamped.to(device, dtype)
        if moved is self.undamped:
            return self
        return self.of_parts(
            moved,
            self.strength,
            self._left_part.to(device=moved.device, dtype=moved.dtype),
            self._right_part.to(device=moved.device, dtype=moved.dtype),
        )

    def factor_sums(self) -> FactorSums:
        """The undamped ones: D is as good as diagonal in the basis that they give."""
        return self.undamped.factor_sums()

    def check_values(self) -> None:
        """The factors' own check; D is made of them."""
        self.undamped.check_values()
