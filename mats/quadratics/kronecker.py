"""C_i X = G_i X A_i: K-FAC (both factors), RegMean (right alone), block Fisher of a vector (right alone, out = 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics.base import FactorSums, Index, Quadratic, Side, Sides
from mats.quadratics.checks import check_gram, check_nonnegative, check_same_place, check_stack
from mats.quadratics.factors import (
    diagonal_in_basis,
    left_product,
    left_rows,
    mean_diagonals,
    right_product,
    right_rows,
    weighted_sum,
)


class KroneckerQuadratic(Quadratic):
    """C_i X = G_i X A_i with symmetric positive semi-definite G_i, A_i, each dense, diagonal, or absent (the identity).

    One application to all models is two batched products, `[S_1 … S_m] = rows of [G_1 … G_m] · X` and
    `[S_1 … S_m] · [A_1; …; A_m]`, without a transpose and without an accumulation over models. For that the factors are
    kept with the models inside: left [L, out, m, out], right [L, m, in, in]. Stacks that already lie so in memory
    (`mats.quadratics.empty_left_factors`, `empty_right_factors`, and any right stack with L = 1) are used as they are;
    others are copied once.

    Args:
        left: G [m, L, out, out] dense, [m, L, out] diagonal, or None.
        right: A [m, L, in, in] dense, [m, L, in] diagonal, or None. Any scale: see `mats.quadratics.scaling`.
        weights: λ [m]; None: all 1.
        shape: (L, out, in); needed when a factor is None.

    Raises:
        ShapeMismatch, RequestError: as said in `mats.quadratics.checks`.
    """

    def __init__(
        self,
        left: Tensor | None,
        right: Tensor | None,
        weights: Sequence[float] | Tensor | None = None,
        *,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        present = right if right is not None else left
        if present is None:
            raise RequestError(
                "KroneckerQuadratic: neither factor given; IdentityQuadratic is the quadratic without them"
            )
        if shape is None:
            if left is None or right is None:
                raise RequestError("KroneckerQuadratic: one factor is absent, so shape=(L, out, in) must be given")
            shape = (left.shape[1], left.shape[2], right.shape[2])
        super().__init__([1.0] * present.shape[0] if weights is None else weights, shape)
        systems, rows, columns = self.shape
        for name, stack, size in (("left factors", left, rows), ("right factors", right, columns)):
            if stack is not None:
                check_stack(name, stack, [(self.models, systems, size, size), (self.models, systems, size)])
        if left is not None and right is not None:
            check_same_place("left factors", left, "right factors", right)
        self._left = None if left is None else left_rows(left)
        self._right = None if right is None else right_rows(right)
        self._folded: Tensor | None = None
        self._columns: dict[int, Tensor | None] = {}
        self._scale = None
        if len(set(self.weights)) > 1:
            self._scale = torch.tensor(self.weights, dtype=present.dtype, device=present.device)[:, None]

    @property
    def left(self) -> Tensor | None:
        """G [m, L, out, out] or [m, L, out], a view."""
        if self._left is None:
            return None
        return self._left.permute(2, 0, 1, 3) if self._left.dim() == 4 else self._left.permute(2, 0, 1)

    @property
    def right(self) -> Tensor | None:
        """A [m, L, in, in] or [m, L, in], a view."""
        return None if self._right is None else self._right.transpose(0, 1)

    @property
    def _present(self) -> Tensor:
        """A factor that is there."""
        present = self._right if self._right is not None else self._left
        assert present is not None
        return present

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self._present.dtype

    @property
    def device(self) -> torch.device:
        """Of the factors."""
        return self._present.device

    @property
    def sides(self) -> Sides:
        """Exact with one factor absent, both diagonal, or a single model."""
        left, right = _side(self._left), _side(self._right)
        exact = "absent" in (left, right) or (left == right == "standard") or self.models == 1
        return Sides(left, right, exact)

    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """G_i X A_i, the factors of that one model widened to the dtype of X."""
        left, right = self.left, self.right
        if left is not None and right is not None and (seen := self._seen(model)) is not None:
            product = torch.zeros_like(X)
            part = left_product(left[model].to(X.dtype), X[:, :, seen])
            product[:, :, seen] = right_product(part, right[model][:, seen].to(X.dtype))
            return product
        if left is not None:
            X = left_product(left[model].to(X.dtype), X)
        if right is not None:
            X = right_product(X, right[model].to(X.dtype))
        return X

    def _seen(self, model: int) -> Tensor | None:
        """The columns that a model saw, where A_i is a diagonal with mostly zeros (token counts); else None."""
        if self._right is None or self._right.dim() != 3:
            return None
        if model not in self._columns:
            seen = self._right[:, model].any(dim=0).nonzero().flatten()
            self._columns[model] = seen if 2 * len(seen) <= self.shape[2] else None
        return self._columns[model]

    def apply(self, X: Tensor) -> Tensor:
        """Σ_i λ_i G_i X A_i in two products (one, where a factor is absent; none, where the rest is diagonal)."""
        if X.dtype != self.dtype:
            return super().apply(X)
        left, right = self._left, self._right
        if left is None or right is None or left.dim() + right.dim() == 6:
            return self._apply_folded(X)
        systems, rows, columns = X.shape
        if left.dim() == 4:
            parts = torch.bmm(left.reshape(systems, rows * self.models, rows), X).view(
                systems, rows, self.models, columns
            )
        else:
            parts = X.unsqueeze(2) * left.unsqueeze(3)
        if self._scale is not None:
            parts.mul_(self._scale)
        if right.dim() == 4:
            long = right.reshape(systems, self.models * columns, columns)
            total = torch.bmm(parts.view(systems, rows, self.models * columns), long)
        else:
            total = parts.mul_(right.unsqueeze(1)).sum(dim=2)
        if self._scale is None and self.weights[0] != 1.0:
            total.mul_(self.weights[0])
        return total

    def _apply_folded(self, X: Tensor) -> Tensor:
        """Where a single matrix (or a diagonal) acts for all models: that sum is formed once."""
        if self._folded is None:
            left, right = self.left, self.right
            if left is not None and right is not None:
                self._folded = self.diagonal().to(self.dtype)
            else:
                stack = right if right is not None else left
                assert stack is not None
                self._folded = weighted_sum(stack, self.weights).to(self.dtype)
        if self._left is None:
            return right_product(X, self._folded)
        if self._right is None:
            return left_product(self._folded, X)
        return X * self._folded

    def mean_diagonals(self) -> Tensor:
        """tr G_i tr A_i / (out · in)."""
        means = torch.ones(self.models, self.shape[0], dtype=torch.float64, device=self.device)
        for stack in (self.left, self.right):
            if stack is not None:
                means = means * mean_diagonals(stack)
        return means

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ λ_i (u_jᵀ G_i u_j)(v_kᵀ A_i v_k)."""
        basis = left_basis if left_basis is not None else right_basis
        dtype = torch.float64 if basis is None else basis.dtype
        total = torch.zeros(self.shape, dtype=dtype, device=self.device)
        left, right = self.left, self.right
        ones = torch.ones((), dtype=dtype, device=self.device)
        for model, weight in enumerate(self.weights):
            rows = ones if left is None else diagonal_in_basis(left[model].to(dtype), left_basis)[:, :, None]
            columns = ones if right is None else diagonal_in_basis(right[model].to(dtype), right_basis)[:, None, :]
            total.add_(rows * columns, alpha=weight)
        return total

    def select(self, index: Index) -> KroneckerQuadratic:
        """On some of the systems; a slice of the stacks stays a view of them."""
        left = None if self._left is None else self._left[index]
        right = None if self._right is None else self._right[index]
        systems = (left if left is not None else right).shape[0]  # type: ignore[union-attr]
        return self._rebuilt(left, right, systems)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> KroneckerQuadratic:
        """Elsewhere, or in another dtype."""
        device, dtype = torch.device(device or self.device), dtype or self.dtype
        if device == self.device and dtype == self.dtype:
            return self
        left = None if self._left is None else self._left.to(device=device, dtype=dtype)
        right = None if self._right is None else self._right.to(device=device, dtype=dtype)
        return self._rebuilt(left, right, self.shape[0])

    def _rebuilt(self, left: Tensor | None, right: Tensor | None, systems: int) -> KroneckerQuadratic:
        """A quadratic of the same weights from stacks in the inner layout."""
        if left is not None:
            left = left.permute(2, 0, 1, 3) if left.dim() == 4 else left.permute(2, 0, 1)
        right = None if right is None else right.transpose(0, 1)
        return KroneckerQuadratic(left, right, self.weights, shape=(systems, *self.shape[1:]))

    def factor_sums(self) -> FactorSums:
        """Σ w_i G_i / tr G_i and Σ w_i A_i / tr A_i with w_i = √(λ_i tr G_i tr A_i); plain Σ λ_i A_i if G is absent.

        Source: the trials of the project; the rescaling makes the trace of the product that of Σ λ_i G_i ⊗ A_i.
        """
        left, right = self.left, self.right
        if left is None or right is None:
            return FactorSums(*(_dense_sum(stack, self.weights) for stack in (left, right)))
        traces = [mean_diagonals(left) * self.shape[1], mean_diagonals(right) * self.shape[2]]
        weights = torch.tensor(self.weights, dtype=torch.float64, device=self.device)[:, None]
        shares = (weights * traces[0].clamp(min=0) * traces[1].clamp(min=0)).sqrt()
        left_sum, right_sum = (
            _dense_sum(stack, torch.where(trace > 0, shares / trace, 0.0))
            for stack, trace in zip((left, right), traces, strict=True)
        )
        if left_sum is None or right_sum is None:
            return FactorSums(left_sum, right_sum)
        total = shares.sum(dim=0)
        scale = torch.where(total > 0, shares.square().sum(dim=0) / total.square(), 0.0)
        return FactorSums(left_sum, right_sum, scale)

    def check_values(self) -> None:
        """Every factor finite, symmetric, with no negative diagonal entry."""
        for side, stack in (("left", self.left), ("right", self.right)):
            for model in range(self.models if stack is not None else 0):
                for system in range(self.shape[0]):
                    assert stack is not None
                    name = f"{side} factor of model {model}, system {system}"
                    check = check_gram if stack.dim() == 4 else check_nonnegative
                    check(name, stack[model, system])


def _side(stack: Tensor | None) -> Side:
    """How a stack in the inner layout acts."""
    if stack is None:
        return "absent"
    return "dense" if stack.dim() == 4 else "standard"


def _dense_sum(stack: Tensor | None, weights: Sequence[float] | Tensor) -> Tensor | None:
    """Σ_i w_i X_i of dense factors; None where the standard basis serves."""
    return weighted_sum(stack, weights) if stack is not None and stack.dim() == 4 else None
