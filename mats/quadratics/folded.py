"""Σ λ_i G_i X A_i made ready to be applied many times: in coordinates of its own, with all that is constant folded in.

    Y ↦ Σ_i (Uᵀ G_i U + s ḡ_i I) Y (Vᵀ A_i V + s ā_i I) · λ_i ÷ scale

Factored damping (`mats.quadratics.damped`) is what (G_i + s ḡ_i I) ⊗ (A_i + s ā_i I) has beyond G_i ⊗ A_i; on factors
of one's own it is an addition to diagonals, and costs an iteration nothing. A rotation leaves it as it is. In the
coordinates of the joint eigenbasis the preconditioner is an elementwise division instead of four products.

A bias rides along as one more column, so sizes are odd where they matter most, and products of odd sizes are slow (on
an AVX-512 core 61 to 73 against 88 to 95 GFLOP/s). So the copy is padded with zeros; coordinates there stay zero.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mats.quadratics.factors import mean_diagonals, rotated_left, rotated_right
from mats.quadratics.kronecker import KroneckerQuadratic

MULTIPLE, SMALLEST = 8, 64  # sizes are padded to a multiple of the first, from the second on


def fold(
    source: KroneckerQuadratic,
    left_basis: Tensor | None,
    right_basis: Tensor | None,
    scale: Tensor,
    damping: float = 0.0,
) -> KroneckerQuadratic:
    """A copy of K-FAC curvature in rotated coordinates, damped, with mean diagonal near 1 and weights 1.

    Args:
        source: both factors present, at least one dense; in the dtype of U and V.
        left_basis: U [L, out, padded out], orthonormal columns, then zeros; None: rows as they are, padded.
        right_basis: V [L, in, padded in], likewise.
        scale: Σ λ mean diagonal [L] float64; by it everything is divided, so that float32 cannot underflow.
        damping: s ≥ 0.
    """
    left, right = source.left, source.right
    assert left is not None
    assert right is not None
    weights = torch.tensor(source.weights, dtype=torch.float64, device=source.device)[:, None]
    outputs, inputs = mean_diagonals(left), mean_diagonals(right)  # ḡ, ā: [m, L]
    # Each side near 1 by itself: the product of two tiny scales need not be a number in float32.
    largest = outputs.amax(dim=0, keepdim=True)
    row_scale = torch.where(largest > 0, 1 / largest, 0.0).expand_as(outputs)
    column_scale = torch.where(scale > 0, largest / scale, 0.0) * weights
    sides = (
        _own(left, left_basis, row_scale, rows_inside=True),
        _own(right, right_basis, column_scale, rows_inside=False),
    )
    for stack, mean in zip(sides, (outputs * row_scale, inputs * column_scale), strict=True):
        diagonal = stack.diagonal(dim1=2, dim2=3) if stack.dim() == 4 else stack
        diagonal.add_((damping * mean).to(diagonal.dtype)[:, :, None])
    return KroneckerQuadratic(*sides)


def can_fold(quadratic: KroneckerQuadratic) -> bool:
    """Whether both factors are there, and one of them dense."""
    left, right = quadratic.left, quadratic.right
    return left is not None and right is not None and left.dim() + right.dim() >= 7


def _own(stack: Tensor, basis: Tensor | None, scale: Tensor, *, rows_inside: bool) -> Tensor:
    """A rotated and scaled copy of a stack, in the layout in which it is applied; scale [m, L]."""
    factor = scale.to(stack.dtype)
    if stack.dim() == 3:
        return pad_last(stack * factor[:, :, None])
    if rows_inside:
        rows = stack.permute(1, 2, 0, 3)
        if basis is None:
            more = padded(stack.shape[3]) - stack.shape[3]
            turned = functional.pad(rows, (0, more, 0, 0, 0, more))
        else:
            turned = rotated_left(rows, basis)
        return (turned * factor.T[:, None, :, None]).permute(2, 0, 1, 3)
    rows = stack.transpose(0, 1)
    turned = pad_both(rows) if basis is None else rotated_right(rows, basis)
    return (turned * factor.T[:, :, None, None]).transpose(0, 1)


def padded(size: int) -> int:
    """The size to which one is padded."""
    return size if size < SMALLEST else -(-size // MULTIPLE) * MULTIPLE


def pad_last(stack: Tensor, value: float = 0.0) -> Tensor:
    """[…, n] with its last dimension padded; itself where it fits."""
    more = padded(stack.shape[-1]) - stack.shape[-1]
    return functional.pad(stack, (0, more), value=value) if more else stack


def pad_both(stack: Tensor, value: float = 0.0) -> Tensor:
    """[…, n, k] with its last two dimensions padded; itself where it fits."""
    rows, columns = (padded(size) - size for size in stack.shape[-2:])
    return functional.pad(stack, (0, columns, 0, rows), value=value) if rows or columns else stack
