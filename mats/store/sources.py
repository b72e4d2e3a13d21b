"""Where a writer finds encoded sums: in memory, in several parts, or added up from other stores, one key at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mats.errors import InputsMismatch
from mats.store.manifest import encoding_of
from mats.store.packing import check_symmetric, pack, packed_size
from mats.store.records import Sums
from mats.store.tensor_file import DTYPES, Encoded, dtype_name

ADDED_AT_A_TIME = 1 << 18  # numbers; their float64 sum (2 MiB) stays in the cache


class SumSource(Protocol):
    """Encoded sums by key; nothing but the one asked for need be in memory."""

    @property
    def entries(self) -> Mapping[str, Encoded]:
        """What there is."""

    def read(self, key: str) -> Tensor:
        """The encoded tensor of `key`; the next read may overwrite it."""


@dataclass(frozen=True)
class SourceParts:
    """What belongs to the sums besides tensors."""

    tokens: dict[str, float]
    fourth_moments: dict[str, float]
    example_ids: list[str]


class InMemory:
    """The tensors of `Sums`, each packed when it is read."""

    def __init__(self, sums: Sums) -> None:
        self._tensors = sums.tensors
        self._workspace = torch.empty(0)
        self.entries = {
            key: Encoded(encoding_of(key, tuple(tensor.shape)), tuple(tensor.shape), dtype_name(key, tensor.dtype))
            for key, tensor in sums.tensors.items()
        }

    def read(self, key: str) -> Tensor:
        """The encoded tensor; symmetry is checked on the way.

        Raises:
            RequestError: a statistic that must be symmetric is not.
        """
        tensor = self._tensors[key].detach()
        if self.entries[key].encoding == "dense":
            return tensor
        check_symmetric(tensor, key)
        size = packed_size(tensor.shape[0])
        fits = (self._workspace.dtype, self._workspace.device) == (tensor.dtype, tensor.device)
        if not fits or self._workspace.numel() < size:
            self._workspace = tensor.new_empty(size)
        return pack(tensor, out=self._workspace[:size])


class DenseStore(Protocol):
    """A store whose sums can be asked for as dense tensors."""

    @property
    def entries(self) -> Mapping[str, Encoded]:
        """What there is."""

    def sum(self, key: str) -> Tensor:
        """A dense sum."""


class Decoded:
    """The sums of a compressed store as exact encodings in float32: what is kept of them, not what was measured."""

    def __init__(self, store: DenseStore) -> None:
        self._store = store
        self.entries = {
            key: Encoded(encoding_of(key, entry.shape), entry.shape, entry.dtype)
            for key, entry in store.entries.items()
        }

    def read(self, key: str) -> Tensor:
        """The encoded tensor."""
        dense = self._store.sum(key)
        return pack(dense) if self.entries[key].encoding == "upper" else dense


class Joined:
    """Several sources with different keys, as one: the partitions of a collection."""

    def __init__(self, parts: Sequence[SumSource]) -> None:
        self._part_of = {key: part for part in parts for key in part.entries}
        self.entries = {key: entry for part in parts for key, entry in part.entries.items()}
        assert len(self.entries) == sum(len(part.entries) for part in parts), "partitions share a sum"

    def read(self, key: str) -> Tensor:
        """The encoded tensor, from the part that has it."""
        return self._part_of[key].read(key)


class Added:
    """Σ over sources with the same keys, accumulated in float64 and rounded once to the stored dtype.

    The sources must keep what they have returned, as stores do: all terms of one key are read before they are added.
    """

    def __init__(self, terms: Sequence[SumSource]) -> None:
        self._terms = terms
        self.entries = terms[0].entries
        for term in terms[1:]:
            if term.entries != self.entries:
                odd = sorted(set(dict(term.entries).items()) ^ set(self.entries.items()), key=lambda item: item[0])
                raise InputsMismatch(f"stores: {odd[0][0]} is not in all of them with one shape and dtype; cannot add")

    def read(self, key: str) -> Tensor:
        """The encoded sum."""
        terms = [term.read(key) for term in self._terms]
        total = torch.empty(self.entries[key].stored_shape, dtype=DTYPES[self.entries[key].dtype])
        flat, parts = total.view(-1), [term.reshape(-1) for term in terms]
        for start in range(0, flat.numel(), ADDED_AT_A_TIME):
            chunk = slice(start, start + ADDED_AT_A_TIME)
            summed = parts[0][chunk].double()
            for part in parts[1:]:
                summed = summed + part[chunk]
            flat[chunk] = summed
        return total


def join_scalars(parts: Sequence[SourceParts]) -> SourceParts:
    """Tokens and fourth moments of all partitions; every partition saw the same examples.

    Raises:
        InputsMismatch: partitions saw different examples.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.example_ids != first.example_ids:
            raise InputsMismatch(
                f"partitions saw different examples ({len(first.example_ids)} and {len(part.example_ids)}); "
                "each must run over the same batches"
            )
    return SourceParts(
        tokens={key: value for part in parts for key, value in part.tokens.items()},
        fourth_moments={key: value for part in parts for key, value in part.fourth_moments.items()},
        example_ids=list(first.example_ids),
    )
