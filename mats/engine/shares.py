"""One merge on several processes: who does what, and how they write one output.

Everything is planned as for one process, and each group of layers and each tensor then belongs to one of them: batches
are the same whatever the number of processes, and so are the bytes. All write into the same shards, each tensor in its
place, so the processes must see one file system.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mats.checkpoints import CheckpointWriter
from mats.engine.fused_parts import split_part
from mats.engine.group_plan import in_order
from mats.engine.inputs import MergeInputs
from mats.engine.plan_parts import Group, Streamed
from mats.engine.processes import Processes
from mats.engine.streaming import restarts
from mats.methods.settings import ElementwiseSettings

STREAMING = 50.0  # operations that stand for reading, merging and writing one entry of one model

Writer = TypeVar("Writer", bound=CheckpointWriter)


@dataclass(frozen=True)
class Share:
    """What one process does, in order."""

    streamed: tuple[Streamed, ...]
    groups: tuple[Group, ...]


def share_of(inputs: MergeInputs, streamed: Sequence[Streamed], groups: Sequence[Group], processes: Processes) -> Share:
    """This process's part of a plan: the largest pieces of work are given away first, each to whoever has least.

    Tensors whose results depend on each other stay together. Every process finds the same shares.
    """
    if processes.count == 1:
        return Share(tuple(streamed), tuple(groups))
    # Parts of one tensor are put together in the memory of one process.
    fused = tuple(group for group in groups if any(split_part(name)[1] is not None for name in group.names))
    pieces: list[tuple[float, tuple[Streamed, ...], tuple[Group, ...]]]
    pieces = [(group.work, (), (group,)) for group in groups if group not in fused]
    pieces += [(sum(group.work for group in fused), (), fused)] if fused else []
    together: dict[ElementwiseSettings, list[Streamed]] = {}
    for part in streamed:
        if part.settings is not None and restarts(inputs, part.settings):
            together.setdefault(part.settings, []).append(part)
        else:
            pieces.append((_work(inputs, part), (part,), ()))
    pieces += [(sum(_work(inputs, part) for part in parts), tuple(parts), ()) for parts in together.values()]
    mine = _dealt([work for work, _, _ in pieces], processes.count)[processes.rank]
    own = {part for place in mine for part in pieces[place][1]}
    return Share(
        tuple(part for part in streamed if part in own),
        tuple(in_order([group for place in mine for group in pieces[place][2]])),
    )


def _work(inputs: MergeInputs, part: Streamed) -> float:
    models = len(inputs.models) if part.settings is not None else 1
    return STREAMING * models * inputs.infos[part.name].numel


def _dealt(work: Sequence[float], hands: int) -> list[list[int]]:
    """Positions of pieces for each hand, the largest first to the one with least (Graham 1969, LPT rule)."""
    loads = [(0.0, hand) for hand in range(hands)]
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for place in sorted(range(len(work)), key=lambda place: -work[place]):
        load, hand = heapq.heappop(loads)
        dealt[hand].append(place)
        heapq.heappush(loads, (load + work[place], hand))
    return dealt


def written_together(processes: Processes, make: Callable[[int], Writer]) -> Writer:
    """A writer of one output that all processes write to; `make` makes that of a part, part 0 first.

    Raises:
        MatsError: whatever `make` raises in the first process; the others are told.
    """
    writer = make(0) if processes.is_first else None
    held = processes.first_says(lambda: {} if writer is None else writer.held())
    if writer is None:
        writer = make(processes.rank)
        writer.adopt(held)
    return writer
