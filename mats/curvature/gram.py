"""Sums of outer products Σ x xᵀ, accumulated in place.

Rows that count are picked once, in one copy (of a batch without padding: none), and everything else reads that copy:
their norms, their sum (the border of the homogeneous coordinate, which is never appended to them) and their products.
A batch with few rows (short targets, one row per example) would spend its time on reading and writing the matrix: such
rows wait in a buffer until they are worth a product.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mats.curvature.accumulators import BesideTheLayer, Home
from mats.curvature.symmetric import add_outer_products_

# Where padding is dropped before the product. Elsewhere it is set to zero: on a GPU, selecting rows would make the host
# wait for their number.
_SELECTING_DEVICES = frozenset({"cpu"})

# Fewer rows than this wait (float32 on one core: reading and writing 3072² numbers takes as long as multiplying about
# 30 rows), until there are more than the buffer holds. It is never larger than the matrix.
_FEW_ROWS = 64
_BUFFER_ROWS = 256


class Selection:
    """Which rows [B, R] count; one serves all layers that read the same tokens, so what is derived is kept."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @cached_property
    def index(self) -> Tensor | None:
        """Positions of the rows that count among B·R, None if all do. Waits for the device."""
        found = self.mask.flatten().nonzero()[:, 0]
        return None if len(found) == self.mask.numel() else found

    @cached_property
    def of_example(self) -> Tensor:
        """Number of rows of each example that count, float64 [B]."""
        return self.mask.sum(1, dtype=torch.float64)

    @cached_property
    def total(self) -> Tensor:
        """Number of rows that count, a float64 scalar."""
        return self.of_example.sum()


class Rows:
    """Rows to be summed: [examples, rows, d], which of them count, and how much each example counts."""

    def __init__(self, values: Tensor, mask: Tensor | Selection | None, weights: Tensor | None) -> None:
        """Prepare.

        Args:
            values: [B, R, d] activations or gradients.
            mask: bool [B, R], True at rows that count; None: all.
            weights: [B] weight of each example's outer products; None: 1.
        """
        self.values = values.detach()
        self.selection = Selection(mask) if isinstance(mask, Tensor) else mask
        self.weights = None if weights is None else weights.to(values.device)

    def tokens(self) -> Tensor:
        """The (weighted) number of rows, a float64 scalar on the device."""
        examples, rows = self.values.shape[:2]
        if self.selection is not None:
            counted = self.selection
            return counted.total if self.weights is None else (counted.of_example * self.weights).sum()
        if self.weights is None:
            return torch.full((), examples * rows, dtype=torch.float64, device=self.values.device)
        return self.weights.sum(dtype=torch.float64) * rows

    def that_count(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rows [n, d], the weight [n] of each, and which of them are real (where padding stays, as zeros).

        Returns:
            Rows, which may be the very memory of `values`; weights, None: all 1; real, bool [n], None: all.
        """
        flat = self.values.flatten(0, 1)
        weights = self.weights
        if weights is not None:
            weights = weights[:, None].expand(self.values.shape[:2]).flatten()
        if self.selection is None:
            return flat, weights, None
        if flat.device.type in _SELECTING_DEVICES:
            index = self.selection.index
            if index is not None:
                flat = flat.index_select(0, index)
                weights = None if weights is None else weights.index_select(0, index)
            return flat, weights, None
        real = self.selection.mask.flatten()
        weights = None if weights is None else torch.where(real, weights, weights.new_zeros(()))
        return torch.where(real[:, None], flat, flat.new_zeros(())), weights, real


class GramSum:
    """Accumulates Σ x xᵀ of one site or layer, with Σ‖x‖⁴ (for Ledoit–Wolf) and the number of rows beside it.

    Attributes:
        matrix: [size, size] in the accumulator's dtype. Its lower triangle is kept up to date, but for rows that wait;
            `dense` fills the rest.
        waiting: Rows [n, d] that are not in the matrix yet.
    """

    def __init__(self, size: int, homogeneous: bool, dtype: torch.dtype, home: Home | None = None) -> None:
        self.home = home or BesideTheLayer()
        self.size = size
        self.homogeneous = homogeneous
        self.dtype = dtype
        self.matrix: Tensor | None = None
        self._buffer: Tensor | None = None
        self._buffered = 0

    def add(self, rows: Rows, *, scaled: bool) -> Tensor:
        """Add the outer products of `rows`.

        Args:
            rows: What to add.
            scaled: The values carry √weight already (gradients of a scaled loss); otherwise they are scaled here.

        Returns:
            float64 [2] on the device: number of rows and Σ‖x‖⁴, both weighted. Not finite if any row is not.
        """
        flat, weights, real = rows.that_count()
        if flat.device.type == "cpu" or weights is not None:
            flat = flat.to(self.dtype)
        squared = torch.linalg.vector_norm(flat, dim=1, dtype=self.dtype).double().square()
        if self.homogeneous:
            squared = squared + (1.0 if real is None else real.double())
        if weights is None:
            fourth = squared.square().sum()
        elif scaled:
            # ‖√w x‖⁴ = w² ‖x‖⁴; a row of weight 0 is 0 and counts 0.
            fourth = (squared.square() / weights.double().clamp(min=1e-300)).sum()
        else:
            fourth = (weights.double() * squared.square()).sum()
        tokens = rows.tokens()
        self._add_products(flat, None if scaled else weights, tokens)
        return torch.stack([tokens, fourth])

    def _add_products(self, flat: Tensor, weights: Tensor | None, tokens: Tensor) -> None:
        """Add rows [n, d], each `weights` times (None: once), and their border."""
        matrix = self._matrix_for(flat.device)
        if self.homogeneous:
            counted = flat if weights is None else flat * weights.to(self.dtype)[:, None]
            matrix[-1, :-1] += counted.sum(0, dtype=self.dtype).to(matrix.device)
            matrix[-1, -1] += tokens.to(matrix)
        if weights is not None:
            flat = flat * weights.to(self.dtype).sqrt()[:, None]
        if len(flat) < min(_FEW_ROWS, self.size):
            self._wait(flat)
        else:
            add_outer_products_(self._core(), flat)

    def _wait(self, flat: Tensor) -> None:
        """Keep a copy of a few rows until there are enough of them."""
        if self._buffer is not None and self._buffered + len(flat) > len(self._buffer):
            self._multiply_waiting()
        if self._buffer is None:
            self._buffer = flat.new_empty(min(_BUFFER_ROWS, max(self.size, _FEW_ROWS)), flat.shape[1])
        self._buffer[self._buffered : self._buffered + len(flat)] = flat
        self._buffered += len(flat)

    def _multiply_waiting(self) -> None:
        """Bring the rows that wait into the matrix."""
        if self._buffer is not None and self._buffered > 0:
            add_outer_products_(self._core(), self._buffer[: self._buffered])
            self._buffered = 0

    @property
    def waiting(self) -> Tensor | None:
        """Rows [n, d] that are not in the matrix yet: live memory; None: there are none."""
        return None if self._buffer is None or self._buffered == 0 else self._buffer[: self._buffered]

    def _matrix_for(self, device: torch.device) -> Tensor:
        """The accumulator, made when the first rows come, for a layer on `device`."""
        if self.matrix is None:
            self.matrix = self.home.zeros((self.size, self.size), self.dtype, device)
        return self.matrix

    def _core(self) -> Tensor:
        """The accumulator without the border."""
        assert self.matrix is not None
        return self.matrix[:-1, :-1] if self.homogeneous else self.matrix

    def start_from(self, matrix: Tensor, device: torch.device, waiting: Tensor | None = None) -> None:
        """Go on from `matrix`, an earlier sum, and the rows that waited then, for a layer on `device`."""
        self._matrix_for(device).copy_(matrix)
        self._buffered = 0
        if waiting is not None:
            self._wait(waiting.to(device))

    def dense(self, *, with_waiting: bool = True) -> Tensor:
        """The full symmetric matrix, on the CPU; `with_waiting=False` leaves out rows that wait: they go on waiting."""
        if with_waiting:
            self._multiply_waiting()
        if self.matrix is None:
            return torch.zeros(self.size, self.size, dtype=self.dtype)
        lower = self.matrix.tril_()
        lower += lower.tril(-1).T
        return lower.cpu()


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
