"""Matrices by some of their numbers, kept exactly: blocks along the diagonal, or eigenvectors and a diagonal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mats.store.codecs import Part
from mats.store.packing import mirror_, pack, packed_diagonal, packed_size, unpack


class BlockDiagonal:
    """Blocks of `size` rows along the diagonal, each by its upper triangle; the last may be smaller. All else is 0."""

    def __init__(self, size: int) -> None:
        self._size = size

    def _blocks(self, rows: int) -> Iterator[tuple[slice, slice]]:
        """(rows of the matrix, place in the packed numbers) of each block."""
        at = 0
        for start in range(0, rows, self._size):
            stop = min(start + self._size, rows)
            length = packed_size(stop - start)
            yield slice(start, stop), slice(at, at + length)
            at += length

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """See `Codec.parts`."""
        return {"": Part((sum(place.stop - place.start for _, place in self._blocks(shape[0])),), "float32")}

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        dense = dense.float()
        return {"": torch.cat([pack(dense[block, block]) for block, _ in self._blocks(len(dense))])}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.decode`."""
        matrix = parts[""].new_zeros(shape)
        for block, place in self._blocks(shape[0]):
            matrix[block, block] = unpack(parts[""][place], block.stop - block.start)
        return matrix

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.diagonal`; exact."""
        found = [packed_diagonal(parts[""][place], block.stop - block.start) for block, place in self._blocks(shape[0])]
        return torch.cat(found)


class LowRank:
    """A ≈ V Vᵀ + diag(e): V the leading `rank` eigenvectors times √eigenvalue, e the exact diagonal of A − V Vᵀ ≥ 0."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """See `Codec.parts`."""
        return {"": Part((shape[0], min(self._rank, shape[0])), "float32"), "#diagonal": Part((shape[0],), "float32")}

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        values, vectors = torch.linalg.eigh(dense.double())
        leading = (vectors[:, -self._rank :] * values[-self._rank :].clamp(min=0).sqrt()).float()
        left = dense.diagonal().double() - leading.double().square().sum(dim=1)
        return {"": leading.contiguous(), "#diagonal": left.clamp(min=0).float()}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """See `Codec.decode`."""
        matrix = parts[""] @ parts[""].mT
        mirror_(matrix)
        matrix.diagonal().add_(parts["#diagonal"])
        return matrix

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """See `Codec.diagonal`; exact to rounding."""
        return parts[""].square().sum(dim=1) + parts["#diagonal"]
