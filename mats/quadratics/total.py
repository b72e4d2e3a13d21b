"""Several quadratics of one weight, added: a tied matrix collects the curvature of every place that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.errors import RequestError, ShapeMismatch
from mats.quadratics.base import FactorSums, Index, Quadratic, Side, Sides
from mats.quadratics.checks import check_same_place


class SumQuadratic(Quadratic):
    """C_i X = Σ_t C_i^(t) X over terms of the same models, weights and shape.

    An embedding tied to the output head is the usual case. In its layout X [dim, vocab] token counts act on the
    right, `KroneckerQuadratic(None, counts)`, the head's input Gram on the left, `KroneckerQuadratic(gram, None)`.

    Args:
        terms: at least one.

    Raises:
        ShapeMismatch: terms of different shapes or numbers of models.
        RequestError: no terms, or terms of different weights, devices or dtypes.
    """

    def __init__(self, terms: Sequence[Quadratic]) -> None:
        if not terms:
            raise RequestError("SumQuadratic: no terms; at least one is needed")
        first = terms[0]
        super().__init__(first.weights, first.shape)
        for position, term in enumerate(terms):
            if term.shape != first.shape or term.models != first.models:
                raise ShapeMismatch(
                    f"term {position} has {term.models} models of shape {term.shape}, "
                    f"term 0 {first.models} of {first.shape}"
                )
            if term.weights != first.weights:
                raise RequestError(f"term {position} has model weights {term.weights}, term 0 {first.weights}")
            check_same_place(f"term {position}", _token(term), "term 0", _token(first))
        self.terms = tuple(terms)

    @property
    def dtype(self) -> torch.dtype:
        """Of the terms."""
        return self.terms[0].dtype

    @property
    def device(self) -> torch.device:
        """Of the terms."""
        return self.terms[0].device

    @property
    def sides(self) -> Sides:
        """Exact where every term is, and no side is asked for two bases at once.

        A ⊗ I + I ⊗ D is diagonal in the eigenbasis of A; F + A ⊗ I with a general diagonal F, or two Grams, are not.
        """
        parts = [term.sides for term in self.terms]
        left, left_agrees = _common([part.left for part in parts])
        right, right_agrees = _common([part.right for part in parts])
        return Sides(left, right, exact=left_agrees and right_agrees and all(part.exact for part in parts))

    def apply_model(self, model: int, X: Tensor) -> Tensor:
        """Σ_t C_i^(t) X."""
        total = self.terms[0].apply_model(model, X)
        for term in self.terms[1:]:
            total = total + term.apply_model(model, X)
        return total

    def apply(self, X: Tensor) -> Tensor:
        """Σ_t of the terms' own (faster) sums over models."""
        total = self.terms[0].apply(X)
        for term in self.terms[1:]:
            total = total + term.apply(X)
        return total

    def mean_diagonals(self) -> Tensor:
        """Σ_t of the terms'."""
        return torch.stack([term.mean_diagonals() for term in self.terms]).sum(dim=0)

    def diagonal(self, left_basis: Tensor | None = None, right_basis: Tensor | None = None) -> Tensor:
        """Σ_t of the terms'."""
        total = self.terms[0].diagonal(left_basis, right_basis)
        for term in self.terms[1:]:
            total = total + term.diagonal(left_basis, right_basis)
        return total

    def select(self, index: Index) -> SumQuadratic:
        """On some of the systems."""
        return SumQuadratic([term.select(index) for term in self.terms])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SumQuadratic:
        """Elsewhere, or in another dtype."""
        moved = [term.to(device, dtype) for term in self.terms]
        return self if all(new is old for new, old in zip(moved, self.terms, strict=True)) else SumQuadratic(moved)

    def factor_sums(self) -> FactorSums:
        """The terms' factors, each at its own trace; the product of the sums is not offered as an approximation."""
        parts = [term.factor_sums() for term in self.terms]
        return FactorSums(_sum([part.left for part in parts]), _sum([part.right for part in parts]))

    def check_values(self) -> None:
        """Every term's own check."""
        for term in self.terms:
            term.check_values()


def _token(term: Quadratic) -> Tensor:
    """An empty tensor that carries a quadratic's device and dtype."""
    return torch.empty(0, device=term.device, dtype=term.dtype)


def _sum(matrices: Sequence[Tensor | None]) -> Tensor | None:
    """Those that are there, added; None for none."""
    present = [matrix for matrix in matrices if matrix is not None]
    return torch.stack(present).sum(dim=0) if present else None


def _common(sides: Sequence[Side]) -> tuple[Side, bool]:
    """How several terms act on one side together, and whether one basis serves them all."""
    acting = [side for side in sides if side != "absent"]
    if "dense" in acting:
        return "dense", len(acting) == 1
    return ("standard" if acting else "absent"), True
