"""The weight under an adapter, some rows at a time: what W + s·B·A and l ⊙ W are, for every way a weight is stored.

Rows are those of the tensor as it lies in the file, flattened behind its first dimension, in float64. A product of two
thin factors is made for these rows alone, so that a weight of any size needs little memory, and is rounded once, when
the rows are cast to what they are shown as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from mats.checkpoints.checkpoint import Stored
from mats.checkpoints.lora import Lazy, LoraModule
from mats.checkpoints.lora_places import Orientation

Rows = Callable[[int, int], Tensor]
"""[first, last) → the rows, [last - first, columns], float64."""
BLOCK = 1 << 20  # entries of a weight that are held at once where all rows must be passed


class Dense(Protocol):
    """A tensor of the adapted model."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    def prepare(self) -> Rows:
        """Read what all rows need (factors, vectors); the rows themselves are read when they are asked for."""


@dataclass(frozen=True)
class Plain:
    """A tensor as it is stored."""

    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """As shown."""
        return self.stored.shape

    def prepare(self) -> Rows:
        """Nothing is read beforehand."""
        return self.rows

    def rows(self, first: int, last: int) -> Tensor:
        """The rows [first, last), read from the file."""
        columns = prod(self.shape[1:])
        info = self.stored.file.infos[self.stored.name]
        piece = torch.empty((last - first) * columns, dtype=info.dtype)
        self.stored.file.load(self.stored.name, first * columns, piece)
        return piece.double().reshape(last - first, columns)


@dataclass(frozen=True)
class LoraWeight:
    """W + s·B·A, with DoRA m·(W + s·B·A)/‖W + s·B·A‖ per output.

    Attributes:
        weight: W.
        module: its factors.
        orientation: `in_out`: W is stored transposed (Conv1D, embeddings); norms then run over its columns.
    """

    weight: Plain
    module: LoraModule
    orientation: Orientation

    @property
    def shape(self) -> tuple[int, ...]:
        """That of W."""
        return self.weight.shape

    def prepare(self) -> Rows:
        """Read the factors, and with DoRA the magnitude (and all rows once, where norms run over columns)."""
        left, right = self._factors()

        def added(first: int, last: int) -> Tensor:
            return self.weight.rows(first, last).addmm_(left[first:last], right)

        if self.module.magnitude is None:
            return added
        magnitude = self.module.magnitude.read().double().flatten()
        if self.orientation == "in_out":
            ratio = magnitude / _column_norms(added, self.shape)
            return lambda first, last: added(first, last).mul_(ratio)

        def normed(first: int, last: int) -> Tensor:
            rows = added(first, last)
            return rows.mul_((magnitude[first:last] / torch.linalg.vector_norm(rows, dim=1)).unsqueeze(1))

        return normed

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(left [rows, r], right [r, columns]) whose product is the update in the stored orientation, s included."""
        A = self.module.A.double().flatten(1)
        B = self.module.B.double().flatten(1).mul_(self.module.scaling)
        return (A.T, B.T) if self.orientation == "in_out" else (B, A)


@dataclass(frozen=True)
class LoraBias:
    """b + s·b_B: the bias under `lora_bias`, whose forward is W·x + b + s·(B·A·x + b_B)."""

    bias: Plain
    added: Lazy
    scaling: float

    @property
    def shape(self) -> tuple[int, ...]:
        """That of b."""
        return self.bias.shape

    def prepare(self) -> Rows:
        """Read b_B."""
        added = self.added.read().double().mul_(self.scaling).reshape(-1, 1)
        return lambda first, last: self.bias.rows(first, last) + added[first:last]


@dataclass(frozen=True)
class Scaled:
    """An (IA)³ vector folded into a weight or bias: each row, or each column, times its entry.

    Attributes:
        tensor: W or b.
        vector: l, one entry for each row, or for each column group.
        along: `rows` or `columns`.
        groups: of a convolution whose input channels are scaled: columns are the channels of each row's own group.
    """

    tensor: Plain
    vector: Lazy
    along: str
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor."""
        return self.tensor.shape

    def prepare(self) -> Rows:
        """Read l."""
        vector = self.vector.read().double().flatten()
        if self.along == "rows":
            return lambda first, last: self.tensor.rows(first, last).mul_(vector[first:last].unsqueeze(1))
        count = self.shape[0] // self.groups
        spread = prod(self.shape[2:])  # entries of a kernel share their input channel
        table = vector.reshape(self.groups, -1).repeat_interleave(spread, dim=1)
        return lambda first, last: self.tensor.rows(first, last).mul_(table[torch.arange(first, last) // count])


def row_blocks(first: int, last: int, columns: int) -> Iterator[tuple[int, int]]:
    """[first, last) in parts of at most `BLOCK` entries (a row at least)."""
    step = max(1, BLOCK // max(1, columns))
    for start in range(first, last, step):
        yield start, min(start + step, last)


def _column_norms(rows: Rows, shape: tuple[int, ...]) -> Tensor:
    total = torch.zeros(prod(shape[1:]), dtype=torch.float64)
    for first, last in row_blocks(0, shape[0], total.numel()):
        total += rows(first, last).square().sum(dim=0)
    return total.sqrt()
