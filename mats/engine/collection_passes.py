"""The passes of a collection over the data: sums saved on the way, gone on from, and shared among processes.

Of several processes each runs every so manyth batch and keeps partial sums of its own; at the end of a pass their sums
are added, and the first process holds the total, saves what must wait, and writes the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mats.curvature import CollectionPlan, Collector
from mats.curvature.accumulators import Home, OnDisk
from mats.data import Batch
from mats.engine.collection_pace import Pace
from mats.engine.collection_request import CollectionRequest
from mats.engine.processes import Processes
from mats.errors import InputsMismatch
from mats.progress import Progress
from mats.store import PartialSums, Sums
from mats.store.sources import InMemory, Joined, SourceParts, SumSource, join_scalars


@dataclass(frozen=True)
class Run:
    """Everything that the passes need.

    Attributes:
        request: What is measured.
        folder: Where the store will be.
        title: What progress calls the work.
        identity: What partial sums must have in common to be gone on from, apart from the partition.
        module: The model.
        batches: All batches; each process runs some.
        plan: What each pass sums.
        home: Where the sums accumulate.
        processes: Those that share the batches.
    """

    request: CollectionRequest
    folder: Path
    title: str
    identity: Mapping[str, Any]
    module: nn.Module
    batches: Sequence[Batch]
    plan: CollectionPlan
    home: Home
    processes: Processes


@dataclass(frozen=True)
class Measured:
    """What all passes gave.

    Attributes:
        sums: The sums, key by key.
        scalars: Numbers of rows, fourth moments, and the ids of the examples in the order in which they were run.
        resumed_at: The last batch of this process that an earlier run had done already.
    """

    sums: SumSource
    scalars: SourceParts
    resumed_at: int


def run_passes(run: Run, progress: Progress) -> Measured | None:
    """All passes over the data: what they gave in the first process, None in the others.

    Raises:
        NonFiniteStatistic: the model computes NaN or infinity.
        InputsMismatch: the processes see different models or data.
        OutOfSpace: no room for sums, on disk or in memory.
        WorkFailed: another process failed.
    """
    _check_agreement(run)
    sources: list[SumSource] = []
    scalars: list[SourceParts] = []
    resumed_at = 0
    last = len(run.plan.partitions) - 1
    for partition in range(last + 1):
        one = _Pass(run, partition, waits=partition < last)
        sums, resumed = one.sums(progress)
        resumed_at = max(resumed_at, resumed)
        if run.processes.is_first:
            scalars.append(SourceParts(sums.tokens, sums.fourth_moments, sums.example_ids))
            sources.append(InMemory(sums) if partition == last else one.partial.source())
        del sums
    return Measured(Joined(sources), join_scalars(scalars), resumed_at) if run.processes.is_first else None


def _check_agreement(run: Run) -> None:
    """Processes that read different files (folders that are not shared, another revision) must not be added up."""
    seen = {**run.identity, "passes": run.plan.partitions}
    digests = run.processes.gather(hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest())
    odd = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if odd is not None:
        raise InputsMismatch(
            f"{run.title}: process {odd} of {run.processes.count} sees another model, other examples or another plan "
            "than process 0; the same files and settings for all would be right"
        )


class _Pass:
    """One partition of the sums over this process's batches."""

    def __init__(self, run: Run, partition: int, *, waits: bool) -> None:
        self.run = run
        self.partition = partition
        self.waits = waits
        processes = run.processes
        self.mine = range(processes.rank, len(run.batches), processes.count)
        self.partial = PartialSums(run.folder, partition, processes.rank)
        self.identity = {
            **run.identity,
            "partition": list(run.plan.partitions[partition]),
            "processes": [processes.rank, processes.count],
        }

    def sums(self, progress: Progress) -> tuple[Sums, int]:
        """The sums of the pass, of all processes in the first one, and the batch from which this process went on.

        Where later passes follow, they stay on disk as well.
        """
        found = self.partial.load(self.identity)
        if found.discarded:
            progress.note(f"{self.partial.path}: {found.discarded}")
        run, whole = self.run, len(self.run.batches)
        is_over = found.sums is not None and found.batches_done == whole
        if run.processes.first_says(lambda: is_over):
            return (found.sums if found.sums is not None else Sums()), whole
        progress.start(run.title + self._number(), len(self.mine))
        if found.sums is not None:
            progress.note(f"going on after batch {found.batches_done}, from the partial sums of an earlier run")
            progress.advance(found.batches_done)
        sums = self._added_up(self._measure(found.sums, found.batches_done, progress))
        if self.waits and run.processes.is_first:
            self.partial.save(sums, whole, self.identity)
        return sums, found.batches_done

    def _number(self) -> str:
        passes = len(self.run.plan.partitions)
        return f" (pass {self.partition + 1} of {passes})" if passes > 1 else ""

    def _measure(self, before: Sums | None, done: int, progress: Progress) -> Sums:
        """This process's sums: those of before and of its batches from number `done` on."""
        run, pace = self.run, Pace(self.run.request)
        if isinstance(run.home, OnDisk):
            run.home.clear()  # of the pass before
        with Collector(run.module, run.plan, self.partition, run.home) as collector:
            if before is not None:
                collector.load(before)
            for count, index in enumerate(self.mine[done:], start=done + 1):
                run.processes.check()
                collector.add(run.batches[index], number=index + 1)
                progress.advance()
                if pace.due(count, last=count == len(self.mine)):
                    pace.saving()
                    self.partial.save(collector.partial(), count, self.identity)
                    pace.saved()
            return collector.sums()

    def _added_up(self, sums: Sums) -> Sums:
        """The sums of all processes: matrices in place, scalars and ids in the order of ranks."""
        processes = self.run.processes
        if processes.count == 1:
            return sums
        for key in sorted(sums.tensors):
            sums.tensors[key] = processes.sum_(sums.tensors[key].contiguous())
        parts = processes.gather((sums.tokens, sums.fourth_moments, sums.example_ids))
        return Sums(
            sums.tensors,
            _totals([tokens for tokens, _, _ in parts]),
            _totals([fourth for _, fourth, _ in parts]),
            [example for _, _, ids in parts for example in ids],
        )


def _totals(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Key by key, over the parts that have it (a process may have had no batch)."""
    keys = sorted({key for part in parts for key in part})
    return {key: sum(part.get(key, 0.0) for part in parts) for key in keys}
