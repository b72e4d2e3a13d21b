"""A checkpoint shown with another vocabulary: rows picked from it and from the others, whenever they are asked for.

Nothing is kept: a part of a tensor costs the rows of that part alone, so the memory is that of the part.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from mats.checkpoints.bytes import CHUNK_BYTES
from mats.checkpoints.checkpoint import Checkpoint, Stored
from mats.checkpoints.tensors import TensorInfo
from mats.checkpoints.vocabulary_rows import Piece, RowPlan, Sources
from mats.checkpoints.vocabulary_tensors import counterpart, embedding_of, vocabulary_tensors, width_of, with_rows


def with_vocabulary(checkpoints: Sequence[Checkpoint], plan: RowPlan, index: int) -> Checkpoint:
    """Checkpoint `index` with the rows that `plan` gives it; itself where these are its own.

    Floating-point tensors are shown in a dtype that holds every row exactly, and means in fp32 or better.
    """
    checkpoint = checkpoints[index]
    names = vocabulary_tensors(checkpoint)
    embedding = embedding_of(checkpoint)
    if embedding is None or plan.is_identity(index, embedding.shape[0]):
        return checkpoint
    places = {name: _places(checkpoints, index, name) for name in names}
    file = RearrangedFile(index, plan.pieces(index), plan.rows, places)
    shown = {name: Stored(file, name, file.infos[name].shape) for name in names}
    stored = {name: shown.get(name) or checkpoint.place(name) for name in checkpoint.tensors}
    return Checkpoint(checkpoint.name, checkpoint.path, checkpoint.kind, stored, checkpoint.config)


def _places(checkpoints: Sequence[Checkpoint], index: int, name: str) -> list[Stored | None]:
    """Where every input has the tensor that input `index` calls `name`."""
    twins = [name if other == index else counterpart(name, held) for other, held in enumerate(checkpoints)]
    found: list[Stored | None] = [
        None if twin is None else held.place(twin) for held, twin in zip(checkpoints, twins, strict=True)
    ]
    own = found[index]
    assert own is not None
    width = width_of(name, own.shape)
    return [place if place is not None and width_of(name, place.shape) == width else None for place in found]


@dataclass(frozen=True)
class _Rows:
    """One tensor of the view: its counterparts in all inputs, and the numbers that each row has."""

    places: Sequence[Stored | None]
    width: int


class RearrangedFile:
    """A `TensorFile` whose tensors are put together from rows of others.

    Args:
        index: the input that it shows.
        pieces: what its rows are made of, in order and without gaps.
        rows: their number.
        places: name → where each input holds that tensor; None where one does not. A row that only such inputs could
            give is the mean of the other rows.
    """

    def __init__(self, index: int, pieces: Sequence[Piece], rows: int, places: dict[str, list[Stored | None]]) -> None:
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]
        self._tensors: dict[str, _Rows] = {}
        self._means: dict[str, Tensor] = {}
        self.infos: dict[str, TensorInfo] = {}
        for name, held in places.items():
            own = held[index]
            assert own is not None
            self.path: Path = own.file.path
            self._tensors[name] = _Rows(held, width_of(name, own.shape))
            self.infos[name] = TensorInfo(name, self._dtype(held, own), with_rows(name, own.shape, rows))

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with the elements of `name` from index `start` on."""
        width = self._tensors[name].width
        first, last = start // width, -(-(start + out.numel()) // width)
        if start % width == 0 and out.numel() % width == 0:
            self._fill(name, first, out.view(-1, width))
            return
        whole = torch.empty(last - first, width, dtype=out.dtype)
        self._fill(name, first, whole)
        out.copy_(whole.view(-1)[start - first * width :][: out.numel()])

    def view(self, name: str) -> Tensor:
        """The whole tensor, put together in fresh memory."""
        info = self.infos[name]
        whole = torch.empty(info.shape, dtype=info.dtype)
        self._fill(name, 0, whole.view(-1, self._tensors[name].width))
        return whole

    def close(self) -> None:
        """Nothing is open: the files belong to the checkpoints that are shown."""

    def _dtype(self, held: Sequence[Stored | None], own: Stored) -> torch.dtype:
        """What holds every row exactly; means need fp32."""
        dtypes = [own.file.infos[own.name].dtype]
        for sources in {_inputs(piece.sources) for piece in self._pieces}:
            places = [place for source in sources if (place := held[source]) is not None]
            dtypes += [place.file.infos[place.name].dtype for place in places]
            if len(places) != 1:
                dtypes.append(torch.float32)
        return reduce(torch.promote_types, dtypes)

    def _fill(self, name: str, first: int, out: Tensor) -> None:
        """Rows `first`, `first` + 1, … of `name` into `out` [n, width]."""
        for piece in self._within(first, first + len(out)):
            self._fill_piece(name, piece.sources, out[piece.start - first :][: piece.length])

    def _within(self, first: int, last: int) -> Iterator[Piece]:
        """The pieces of rows `first` to `last`, cut to them."""
        position = bisect_right(self._starts, first) - 1
        while position < len(self._pieces) and self._pieces[position].start < last:
            start, length, sources = self._pieces[position]
            low, high = max(first, start), min(last, start + length)
            moved = None if sources is None else tuple((source, row + low - start) for source, row in sources)
            yield Piece(low, high - low, moved)
            position += 1

    def _fill_piece(self, name: str, sources: Sources, out: Tensor) -> None:
        places = self._tensors[name].places
        known = None if sources is None else [(places[source], row) for source, row in sources if places[source]]
        if known is None or (sources and not known):
            out.copy_(self._mean(name))
        elif not known:
            out.zero_()
        elif len(known) == 1:
            _read_rows(*known[0], out)
        else:
            for part in _blocks(out):
                total = torch.zeros(out[part].shape, dtype=torch.promote_types(out.dtype, torch.float32))
                for place, row in known:
                    rows = torch.empty_like(total)
                    _read_rows(place, row + part.start, rows)
                    total += rows
                out[part].copy_(total / len(known))

    def _mean(self, name: str) -> Tensor:
        """The mean of the rows that have a source, [width], in float64."""
        if name not in self._means:
            places, width = self._tensors[name].places, self._tensors[name].width
            total, count = torch.zeros(width, dtype=torch.float64), 0
            for piece in self._pieces:
                if piece.sources is None or not any(places[source] for source, _ in piece.sources):
                    continue
                step = max(1, CHUNK_BYTES // (8 * width))
                for first in range(piece.start, piece.start + piece.length, step):
                    size = min(step, piece.start + piece.length - first)
                    rows = torch.empty(size, width, dtype=self.infos[name].dtype)
                    self._fill(name, first, rows)
                    total += rows.sum(dim=0, dtype=torch.float64)
                count += piece.length
            self._means[name] = total / max(count, 1)
        return self._means[name]


def _inputs(sources: Sources) -> tuple[int, ...]:
    return () if sources is None else tuple(source for source, _ in sources)


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Row ranges of a [n, width] tensor that take a few MiB each."""
    step = max(1, CHUNK_BYTES // max(1, rows.shape[1] * rows.element_size()))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def _read_rows(place: Stored | None, first: int, out: Tensor) -> None:
    """Rows `first`, … of a stored tensor into `out` [n, width], cast where its dtype is another."""
    assert place is not None
    dtype, width = place.file.infos[place.name].dtype, out.shape[1]
    for part in _blocks(out):
        target = out[part]
        direct = target.dtype == dtype and target.is_contiguous()
        rows = target if direct else torch.empty(target.shape, dtype=dtype)
        place.file.load(place.name, (first + part.start) * width, rows.view(-1))
        if not direct:
            target.copy_(rows)
