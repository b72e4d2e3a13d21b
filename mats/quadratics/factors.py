"""Stacks of left and right Kronecker factors: their layout in memory, their products, sums and diagonals.

A stack holds one factor per model and system: dense [m, L, n, n], or only its diagonal [m, L, n].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def empty_left_factors(
    models: int, systems: int, size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """An uninitialised stack [m, L, out, out] that `KroneckerQuadratic` takes over without copying it."""
    return torch.empty(systems, size, models, size, dtype=dtype, device=device).permute(2, 0, 1, 3)


def empty_right_factors(
    models: int, systems: int, size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """An uninitialised stack [m, L, in, in] that `KroneckerQuadratic` takes over without copying it."""
    return torch.empty(systems, models, size, size, dtype=dtype, device=device).transpose(0, 1)


def left_rows(stack: Tensor) -> Tensor:
    """[m, L, out, out] → [L, out, m, out] (or [m, L, out] → [L, out, m]), contiguous; a view where it lies so already.

    With the models between the rows, all G_i X are one product whose result is already [S_1 … S_m] row by row.
    """
    return (stack.permute(1, 2, 0, 3) if stack.dim() == 4 else stack.permute(1, 2, 0)).contiguous()


def right_rows(stack: Tensor) -> Tensor:
    """[m, L, in, in] → [L, m, in, in] (or [m, L, in] → [L, m, in]), contiguous; a view where it lies so already."""
    return stack.transpose(0, 1).contiguous()


def left_product(factor: Tensor, X: Tensor) -> Tensor:
    """G X for each system: G [L, out, out] or its diagonal [L, out]; X [L, out, in]."""
    return torch.bmm(factor, X) if factor.dim() == 3 else factor.unsqueeze(2) * X


def right_product(X: Tensor, factor: Tensor) -> Tensor:
    """X A for each system: A [L, in, in] or its diagonal [L, in]; X [L, out, in]."""
    return torch.bmm(X, factor) if factor.dim() == 3 else X * factor.unsqueeze(1)


def rotated_left(rows: Tensor, basis: Tensor) -> Tensor:
    """Uᵀ G_i U of all models: rows [L, out, m, out] as from `left_rows`, U [L, out, k] → [L, k, m, k]."""
    systems, size, models, _ = rows.shape
    turned = torch.bmm(rows.reshape(systems, size * models, size), basis).view(systems, size, -1)
    return torch.bmm(basis.mT, turned).view(systems, -1, models, basis.shape[2])


def rotated_right(rows: Tensor, basis: Tensor) -> Tensor:
    """Vᵀ A_i V of all models: rows [L, m, in, in] as from `right_rows`, V [L, in, k] → [L, m, k, k]."""
    systems, models, size, _ = rows.shape
    turned = torch.bmm(rows.reshape(systems, models * size, size), basis)
    return torch.matmul(basis.mT[:, None], turned.view(systems, models, size, -1))


def diagonal_in_basis(factor: Tensor, basis: Tensor | None) -> Tensor:
    """v_kᵀ A v_k for the columns v_k of a basis [L, n, n] (None: the standard one); A dense or diagonal → [L, n]."""
    if factor.dim() == 2:
        return factor if basis is None else torch.bmm(factor.unsqueeze(1), basis.square()).squeeze(1)
    if basis is None:
        return factor.diagonal(dim1=1, dim2=2)
    return torch.bmm(factor, basis).mul_(basis).sum(dim=1)


def mean_diagonals(stack: Tensor) -> Tensor:
    """tr / n of each factor: [m, L] float64."""
    diagonals = stack.diagonal(dim1=2, dim2=3) if stack.dim() == 4 else stack
    return diagonals.mean(dim=2, dtype=torch.float64)


def weighted_sum(stack: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """Σ_i w_i X_i in float64, one model widened at a time. Weights [m], or [m, L] for one per system."""
    factors = torch.as_tensor(weights, dtype=torch.float64, device=stack.device)
    total = torch.zeros(stack.shape[1:], dtype=torch.float64, device=stack.device)
    for model in range(stack.shape[0]):
        factor = factors[model].reshape(-1, *[1] * (total.dim() - 1))
        total.addcmul_(stack[model].to(torch.float64), factor)
    return total
