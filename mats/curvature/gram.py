"""Sums of outer products Σ x xᵀ, accumulated in place.

On a CPU, BLAS `syrk` forms one triangle only, half the arithmetic of a full product (measured on one core, float32,
1024 columns: 1.8 to 2 times faster from 512 rows up). Elsewhere a plain product adds to the full matrix, in float32
even when its factors are bfloat16.
"""

from __future__ import annotations

import torch
from scipy.linalg import blas
from torch import Tensor

# Below this many columns the call into SciPy costs more than it saves.
_SYRK_COLUMNS = 96

# Where padding is dropped before the product. Elsewhere it is set to zero: on a GPU, selecting rows would make the host
# wait for their number.
_SELECTING_DEVICES = frozenset({"cpu"})


class Rows:
    """Rows to be summed: [examples, rows, d], which of them count, and how much each example counts."""

    def __init__(self, values: Tensor, mask: Tensor | None, weights: Tensor | None) -> None:
        """Prepare.

        Args:
            values: [B, R, d] activations or gradients.
            mask: bool [B, R], True at rows that count; None: all.
            weights: [B] weight of each example's outer products; None: 1.
        """
        self.values = values
        self.mask = mask
        self.weights = weights

    def tokens(self) -> Tensor:
        """The (weighted) number of rows, a float64 scalar on the device."""
        examples, rows = self.values.shape[:2]
        if self.mask is None:
            per_example = torch.full((examples,), rows, dtype=torch.float64, device=self.values.device)
        else:
            per_example = self.mask.sum(1, dtype=torch.float64)
        return per_example.sum() if self.weights is None else (per_example * self.weights).sum()


class GramSum:
    """Accumulates Σ x xᵀ of one site or layer, with Σ‖x‖⁴ (for Ledoit–Wolf) and the number of rows beside it.

    Attributes:
        matrix: [size, size] in the accumulator's dtype. Its lower triangle is kept up to date; `dense` fills the rest.
    """

    def __init__(self, size: int, homogeneous: bool, dtype: torch.dtype) -> None:
        self.size = size
        self.homogeneous = homogeneous
        self.dtype = dtype
        self.matrix: Tensor | None = None

    def add(self, rows: Rows, *, scaled: bool) -> Tensor:
        """Add the outer products of `rows`.

        Args:
            rows: What to add.
            scaled: The values carry √weight already (gradients of a scaled loss); otherwise they are scaled here.

        Returns:
            float64 [2] on the device: number of rows and Σ‖x‖⁴, both weighted. Not finite if any row is not.
        """
        flat = rows.values.detach().flatten(0, 1)
        weights = rows.weights
        per_row = None if weights is None else weights[:, None].expand(rows.values.shape[:2]).flatten()
        if self.homogeneous:
            flat = torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
        if rows.mask is not None:
            keep = rows.mask.flatten()
            flat = _without_padding(flat, keep)
            per_row = None if per_row is None else _without_padding(per_row, keep)
        return torch.stack([rows.tokens(), self._add_flat(flat, per_row, scaled)])

    def _add_flat(self, flat: Tensor, weights: Tensor | None, scaled: bool) -> Tensor:
        """Add rows [n, size]; return Σ w ‖x‖⁴ as a float64 scalar."""
        if flat.device.type == "cpu" or weights is not None:
            flat = flat.to(self.dtype)
        squared = flat.to(self.dtype).square().sum(1).double()
        if weights is None:
            fourth = squared.square().sum()
        elif scaled:
            # ‖√w x‖⁴ = w² ‖x‖⁴; a row of weight 0 is 0 and counts 0.
            fourth = (squared.square() / weights.double().clamp(min=1e-300)).sum()
        else:
            fourth = (weights.double() * squared.square()).sum()
            flat = flat * weights.to(self.dtype).sqrt()[:, None]
        if self.matrix is None:
            self.matrix = torch.zeros(self.size, self.size, dtype=self.dtype, device=flat.device)
        add_outer_products_(self.matrix, flat)
        return fourth

    def dense(self) -> Tensor:
        """The full symmetric matrix, on the CPU."""
        if self.matrix is None:
            return torch.zeros(self.size, self.size, dtype=self.dtype)
        lower = self.matrix.tril_()
        lower += lower.tril(-1).T
        return lower.cpu()


def _without_padding(values: Tensor, keep: Tensor) -> Tensor:
    """Rows [n, …] under `keep` [n], or all of them with the others set to zero, whatever they held."""
    if values.device.type in _SELECTING_DEVICES:
        return values[keep]
    return torch.where(keep.reshape(-1, *[1] * (values.dim() - 1)), values, values.new_zeros(()))


def add_outer_products_(matrix: Tensor, rows: Tensor) -> None:
    """matrix += rowsᵀ rows, at least in the lower triangle.

    Args:
        matrix: [d, d], float32 or float64, contiguous.
        rows: [n, d], of the matrix's dtype; on a GPU also a lower precision, multiplied with float32 accumulation.
    """
    if rows.shape[0] == 0:
        return
    if matrix.device.type == "cpu" and matrix.shape[0] >= _SYRK_COLUMNS:
        syrk = blas.ssyrk if matrix.dtype == torch.float32 else blas.dsyrk
        # The transposed views are in Fortran order, so nothing is copied; "upper" there is "lower" here.
        syrk(1.0, rows.contiguous().numpy().T, beta=1.0, c=matrix.numpy().T, lower=0, overwrite_c=1)
    elif rows.dtype == matrix.dtype:
        matrix.addmm_(rows.T, rows)
    elif rows.device.type == "cuda" and rows.dtype in (torch.bfloat16, torch.float16) and matrix.dtype == torch.float32:
        matrix += _low_precision_product(rows)
    else:
        rows = rows.to(matrix.dtype)
        matrix.addmm_(rows.T, rows)


def _low_precision_product(rows: Tensor) -> Tensor:
    """rowsᵀ rows in float32 from bfloat16 or float16 factors, on tensor cores where torch offers it (2.8 and later)."""
    try:
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        wide = rows.float()
        return wide.T @ wide


class CountSum:
    """Accumulates how often each row of an embedding is looked up: the diagonal of the Gram of one-hot inputs.

    An embedding that scales its rows has inputs scale · one-hot, and counts scale² for each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.counts: Tensor | None = None

    def add(self, ids: Tensor, mask: Tensor | None, weights: Tensor | None, scale: float = 1.0) -> Tensor:
        """Add ids [B, R], of which those under `mask` count.

        Returns:
            float64 [2]: number of rows, and Σ‖x‖⁴, which is scale⁴ times that number.
        """
        if self.counts is None:
            self.counts = torch.zeros(self.size, dtype=torch.float64, device=ids.device)
        amount = torch.ones(ids.shape, dtype=torch.float64, device=ids.device)
        if mask is not None:
            amount = mask.to(torch.float64)
        if weights is not None:
            amount = amount * weights[:, None].double()
        self.counts.index_add_(0, ids.flatten(), amount.flatten() * scale**2)
        total = amount.sum()
        return torch.stack([total, total * scale**4])

    def dense(self) -> Tensor:
        """float64 [size], on the CPU."""
        return torch.zeros(self.size, dtype=torch.float64) if self.counts is None else self.counts.cpu()
