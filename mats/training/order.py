"""Which examples each update sees, and how they are dealt to micro-batches and processes.

The order is one endless stream of shuffled passes over the examples, cut into updates of exactly `batch_size`. It is a
function of the seed and the number of the update alone: a run that is taken up again goes on with the same examples,
and neither accumulation nor the number of processes changes what an update is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 50  # updates whose examples are sorted by length together: few enough to leave the order random


@dataclass(frozen=True)
class Shape:
    """`batch_size` = micro × accumulation × processes, for `updates` optimiser steps."""

    batch_size: int
    micro: int
    accumulation: int
    processes: int
    updates: int


class UpdateOrder:
    """The examples of every update.

    Args:
        lengths: Of each example, in any unit; they only decide who shares a batch.
        shape: Sizes.
        seed: Of the shuffling.
        by_length: Whether updates are made of examples of like length.
        groups: Of each example, a number; inside an update, examples of one group stay together.
    """

    def __init__(
        self, lengths: Sequence[int], shape: Shape, seed: int, *, by_length: bool, groups: Sequence[int] | None = None
    ) -> None:
        self.shape = shape
        self._lengths = list(lengths)
        self._groups = list(groups) if groups is not None else [0] * len(self._lengths)
        self._seed = seed
        self._updates_per_window = WINDOW if by_length else 1
        self._newest_window: tuple[int, list[list[int]]] = (-1, [])
        self._newest_pass: tuple[int, list[int]] = (-1, [])

    def update(self, number: int) -> list[int]:
        """Positions of the examples of update `number` (from 0), sorted by group and length."""
        window, inside = divmod(number, self._updates_per_window)
        if self._newest_window[0] != window:
            self._newest_window = (window, self._window(window))
        return self._newest_window[1][inside]

    def _window(self, window: int) -> list[list[int]]:
        """The updates of one window of the stream."""
        first, size = window * self._updates_per_window, self.shape.batch_size
        count = min(self._updates_per_window, self.shape.updates - first)
        drawn = list(self._stream(first * size, count * size))
        if count > 1:
            # Pass by pass: sorted by length alone, an example of two passes would meet itself in one update.
            drawn.sort(key=lambda item: (item[0], self._lengths[item[1]]))
        examples = [index for _, index in drawn]
        updates = [examples[chosen * size : (chosen + 1) * size] for chosen in self._shuffled(count, 2 * window + 1)]
        return [sorted(update, key=lambda index: (self._groups[index], self._lengths[index])) for update in updates]

    def _stream(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """(pass, position) of `count` examples of the endless stream of passes, from `start` on."""
        total = len(self._lengths)
        while count > 0:
            number, offset = divmod(start, total)
            if self._newest_pass[0] != number:
                self._newest_pass = (number, self._shuffled(total, 2 * number))
            part = self._newest_pass[1][offset : offset + count]
            yield from ((number, index) for index in part)
            start, count = start + len(part), count - len(part)

    def _shuffled(self, count: int, stream: int) -> list[int]:
        """The numbers below `count` in the order of the random stream `stream`."""
        shuffled: list[int] = np.random.default_rng([self._seed, stream]).permutation(count).tolist()
        return shuffled


class MicroBatches(Sequence[list[int]]):
    """The micro-batches of one process in order: a batch sampler of known length."""

    def __init__(self, order: UpdateOrder, process: int) -> None:
        self._order = order
        self._process = process
        self._newest: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self._order.shape.updates * self._order.shape.accumulation

    def __getitem__(self, position: int) -> list[int]:  # type: ignore[override] # slices are of no use here
        if not 0 <= position < len(self):
            raise IndexError(position)
        shape = self._order.shape
        update, turn = divmod(position, shape.accumulation)
        if self._newest[0] != update:
            self._newest = (update, self._order.update(update))
        # Neighbours in length go to different processes, which wait for each other at the end of an update.
        start = (turn * shape.processes + self._process) * shape.micro
        return self._newest[1][start : start + shape.micro]
