"""Gradients of single examples, from what one backward pass over a batch shows at each module.

A parameter used in several places, or by a module called several times, has as its gradient the sum over all uses. That
sum is taken per example *before* squaring: squaring uses apart, or the whole batch at once, gives another quantity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mats.curvature.accumulators import BesideTheLayer, Home
from mats.store.records import Layout

# Working memory for the gradients of a few examples at a time. A CPU is fastest when they stay in its cache (measured
# for 256×256 to 768×3072 weights: 1.5 to 3 times faster than large batched products); a GPU wants few, large launches.
_CHUNK_BYTES = {"cpu": 128 * 2**10, "cuda": 64 * 2**20}

# Rows and columns of a larger weight's tiles on a CPU: 1.2 MB, about a core's cache (for 128 tokens and 768×768 to
# 768×3072 weights 1.2 to 1.5 times faster than whole weights, for 16 tokens up to 2.7 times).
_TILE = (384, 768)


class Use(ABC):
    """One use of a parameter in one forward pass: how each example's gradient arises from it."""

    @abstractmethod
    def gradients(self, first: int, last: int) -> Tensor:
        """Gradients of examples first … last - 1, [last - first, *shape]."""

    @abstractmethod
    def total(self, coefficients: Tensor) -> Tensor:
        """Σ_n coefficients[n] · gradient of example n, in the parameter's shape."""

    @abstractmethod
    def scale(self) -> Tensor:
        """An upper bound of the gradient's size before anything cancels, to judge rounding errors by."""

    def add_squares_(self, squares: Tensor, examples: int) -> None:
        """squares += Σ_n gradient_n², elementwise, a few examples at a time."""
        add_squares_(squares, [self], examples)


class OuterUse(Use):
    """A weight matrix: example n's gradient is Σ_t δ_nt a_ntᵀ."""

    def __init__(self, inputs: Tensor, deltas: Tensor, layout: Layout, shape: torch.Size) -> None:
        """Keep inputs [B, R, in] and output gradients [B, R, out] in the accumulator's dtype."""
        self.inputs = inputs
        self.deltas = deltas
        self.shape = shape
        # Rows of the stored weight first, whichever way it lies.
        self.left, self.right = (inputs, deltas) if layout == "in_out" else (deltas, inputs)

    def gradients(self, first: int, last: int) -> Tensor:
        """See `Use`."""
        product = self.left[first:last].transpose(1, 2) @ self.right[first:last]
        return product.reshape(last - first, *self.shape)

    def total(self, coefficients: Tensor) -> Tensor:
        """See `Use`."""
        left = self.left * coefficients[:, None, None]
        return (left.flatten(0, 1).T @ self.right.flatten(0, 1)).reshape(self.shape)

    def scale(self) -> Tensor:
        """See `Use`."""
        return self.inputs.norm() * self.deltas.norm()

    def add_squares_(self, squares: Tensor, examples: int) -> None:
        """With one row per example the square of an outer product is the outer product of squares."""
        if self.left.shape[1] == 1:
            product = self.left.flatten(0, 1).square().T @ self.right.flatten(0, 1).square()
            squares += product.reshape(self.shape)
        elif squares.device.type == "cpu" and squares.numel() * squares.element_size() > _CHUNK_BYTES["cpu"]:
            self._add_squares_of_tiles_(squares.view(self.left.shape[2], self.right.shape[2]))
        else:
            super().add_squares_(squares, examples)

    def _add_squares_of_tiles_(self, squares: Tensor) -> None:
        """A tile of the weight at a time, all examples: gradients and squares stay in the cache."""
        buffer = squares.new_empty(_TILE[0] * _TILE[1])
        for top in range(0, squares.shape[0], _TILE[0]):
            for start in range(0, squares.shape[1], _TILE[1]):
                tile = squares[top : top + _TILE[0], start : start + _TILE[1]]
                gradient = buffer[: tile.numel()].view(tile.shape)
                for left, right in zip(self.left, self.right, strict=True):
                    rows = left[:, top : top + _TILE[0]].T
                    torch.mm(rows, right[:, start : start + _TILE[1]], out=gradient)
                    tile.addcmul_(gradient, gradient)


class LookupUse(Use):
    """An embedding: example n's gradient has δ_nt added to row id_nt."""

    def __init__(self, ids: Tensor, deltas: Tensor, shape: torch.Size, padding_id: int | None) -> None:
        """Keep ids [B, R] and output gradients [B, R, dim]; the padding row has no gradient, as in torch."""
        self.ids = ids
        self.shape = shape
        if padding_id is not None:
            deltas = torch.where((ids == padding_id)[..., None], torch.zeros_like(deltas), deltas)
        self.deltas = deltas

    def gradients(self, first: int, last: int) -> Tensor:
        """See `Use`."""
        count = last - first
        dense = self.deltas.new_zeros(count, *self.shape)
        index = self.ids[first:last, :, None].expand(-1, -1, self.shape[1])
        return dense.scatter_add_(1, index, self.deltas[first:last])

    def total(self, coefficients: Tensor) -> Tensor:
        """See `Use`."""
        weighted = (self.deltas * coefficients[:, None, None]).flatten(0, 1)
        return self.deltas.new_zeros(self.shape).index_add_(0, self.ids.flatten(), weighted)

    def scale(self) -> Tensor:
        """See `Use`."""
        return self.deltas.norm()

    def add_squares_(self, squares: Tensor, examples: int) -> None:
        """Add up each example's repeated ids at their first occurrence, then square: no table per example."""
        del examples
        same = self.ids[:, :, None] == self.ids[:, None, :]  # [B, R, R]
        first = same.to(torch.int8).argmax(-1)  # [B, R]: first position with the same id
        summed = torch.zeros_like(self.deltas)
        summed.scatter_add_(1, first[..., None].expand_as(self.deltas), self.deltas)
        squares.index_add_(0, self.ids.flatten(), summed.flatten(0, 1).square())


class VectorUse(Use):
    """A vector (bias, norm scale, (IA)³): example n's gradient is Σ_t of what each row contributes."""

    def __init__(self, contributions: Tensor, shape: torch.Size) -> None:
        """Sum contributions [B, R, d] over rows."""
        self.contributions = contributions
        self.values = contributions.sum(1).reshape(-1, *shape)

    def gradients(self, first: int, last: int) -> Tensor:
        """See `Use`."""
        return self.values[first:last]

    def total(self, coefficients: Tensor) -> Tensor:
        """See `Use`."""
        return torch.tensordot(coefficients, self.values, dims=1)

    def scale(self) -> Tensor:
        """See `Use`."""
        return self.contributions.norm() * self.contributions.shape[1] ** 0.5


class DenseUse(Use):
    """Gradients already known per example, [B, *shape]."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def gradients(self, first: int, last: int) -> Tensor:
        """See `Use`."""
        return self.values[first:last]

    def total(self, coefficients: Tensor) -> Tensor:
        """See `Use`."""
        return torch.tensordot(coefficients, self.values, dims=1)

    def scale(self) -> Tensor:
        """See `Use`."""
        return self.values.norm()


def add_squares_(squares: Tensor, uses: list[Use], examples: int) -> None:
    """squares += Σ_n (Σ_uses gradient_n)², elementwise, a few examples at a time."""
    budget = _CHUNK_BYTES.get(squares.device.type, _CHUNK_BYTES["cuda"])
    chunk = max(1, budget // max(1, squares.numel() * squares.element_size()))
    for first in range(0, examples, chunk):
        summed = summed_gradients(uses, first, min(examples, first + chunk))
        if chunk == 1:
            squares.addcmul_(summed[0], summed[0])
        else:
            squares += summed.square().sum(0)


def summed_gradients(uses: list[Use], first: int, last: int) -> Tensor:
    """The gradients of examples first … last - 1, all uses added."""
    summed = uses[0].gradients(first, last)
    for use in uses[1:]:
        summed = summed + use.gradients(first, last)
    return summed


class ParameterSum:
    """Accumulates one parameter's `diagonal` Σ_n g_n² and `block` Σ_n g_n g_nᵀ over examples."""

    def __init__(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        statistics: frozenset[str],
        home: Home | None = None,
    ) -> None:
        home = home or BesideTheLayer()
        self.shape = shape
        self.device = device
        size = shape.numel()
        self.diagonal = home.zeros(tuple(shape), dtype, device) if "diagonal" in statistics else None
        self.block = home.zeros((size, size), dtype, device) if "block" in statistics else None

    def add(self, uses: list[Use], examples: int) -> None:
        """Add the squares and outer products of the examples' gradients."""
        if self.diagonal is not None:
            squares = self._at_the_layer(self.diagonal)
            if len(uses) == 1:
                uses[0].add_squares_(squares, examples)
            else:
                add_squares_(squares, uses, examples)
            if squares is not self.diagonal:
                self.diagonal += squares.to(self.diagonal.device)
        if self.block is not None:
            gradients = summed_gradients(uses, 0, examples).reshape(examples, -1).to(self.block.dtype)
            products = self._at_the_layer(self.block).addmm_(gradients.T, gradients)
            if products is not self.block:
                self.block += products.to(self.block.device)

    def _at_the_layer(self, total: Tensor) -> Tensor:
        """The sum itself, or zeros of its shape on the layer's device where it accumulates elsewhere."""
        return total if total.device == self.device else torch.zeros_like(total, device=self.device)
