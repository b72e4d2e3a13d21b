"""Tensors merged entry by entry: one tensor of one model in memory at a time, read, merged, written, forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints import CheckpointWriter
from mats.engine import handing_over
from mats.engine.devices import resolve_device
from mats.engine.handing_over import held_bytes
from mats.engine.inputs import MergeInputs
from mats.engine.memory import FLOAT, device_memory
from mats.engine.plan import MergePlan, Streamed, System
from mats.engine.processes import Processes
from mats.engine.read_ahead import ReadAhead, Want
from mats.engine.rounding import rounding_loss
from mats.engine.write_behind import WriteBehind
from mats.methods.elementwise import ElementwiseMerge, OracleMerge, elementwise
from mats.methods.settings import ElementwiseSettings
from mats.methods.task_arithmetic import TaskArithmeticMerge, TaskVectorScales
from mats.progress import Progress, Silent

Entry = dict[str, Any]


class ElementwisePool:
    """One prepared `ElementwiseMerge` for each distinct settings in a plan, made when first asked for.

    A merge that looks at all of a model (TIES) looks at the tensors it is responsible for in this plan: those streamed
    under its settings, and those whose solve starts from them. `scales` are those of settings that leave them open.
    """

    def __init__(
        self,
        inputs: MergeInputs,
        plan: MergePlan,
        progress: Progress,
        scales: Mapping[ElementwiseSettings, TaskVectorScales] | None = None,
    ) -> None:
        self._inputs = inputs
        self._scales = scales or {}
        self._progress = progress
        self._weights = [model.weight for model in inputs.request.models]
        self._streamed: dict[ElementwiseSettings, list[str]] = {}
        self._started: dict[ElementwiseSettings, list[str]] = {}
        for part in plan.streamed:
            if part.settings is not None:
                self._streamed.setdefault(part.settings, []).append(part.name)
        for group in plan.groups:
            for system in group.systems:
                self._started.setdefault(system.settings.init, []).extend(system.names)
        self._ready: dict[tuple[ElementwiseSettings, bool], ElementwiseMerge] = {}

    def for_streaming(self, settings: ElementwiseSettings) -> ElementwiseMerge:
        """The merge that writes the tensors streamed under `settings`."""
        return self._prepared(settings, start=False)

    def for_start(self, system: System) -> ElementwiseMerge:
        """The merge that gives the start of `system`, with everything settled that needs a look at the whole."""
        return self._prepared(system.settings.init, start=True)

    def _prepared(self, settings: ElementwiseSettings, *, start: bool) -> ElementwiseMerge:
        if (settings, start) not in self._ready:
            names = self._streamed.get(settings, []) + self._started.get(settings, [])
            merge = elementwise(settings, self._weights, self._inputs.model_names)
            if isinstance(merge, TaskArithmeticMerge) and settings in self._scales:
                merge.scales = self._scales[settings]
            if isinstance(merge, OracleMerge):
                for path in settings.extra_checkpoints:
                    merge.oracle = self._inputs.asked.reader(path)
            merge.prepare(self._inputs.read, self._inputs.read_base, names, self._progress, sampler=self._inputs)
            if start and merge.restarts:
                self._see_everything(settings, merge, names)
            self._ready[settings, start] = merge
        return self._ready[settings, start]

    def _see_everything(self, settings: ElementwiseSettings, merge: ElementwiseMerge, names: Sequence[str]) -> None:
        """Merge once for the tally alone, so that every later answer is the final one."""
        self._progress.start(f"looking at all tensors for the {type(merge).__name__} start", len(names))
        for name in names:
            merge.merge(name, base_tensor(self._inputs, settings, name), model_tensors(self._inputs, settings, name))
            self._progress.advance()
        merge.deferred()


def base_tensor(inputs: MergeInputs, settings: ElementwiseSettings, name: str) -> Tensor | None:
    """The base's tensor for a method that needs it; reading it for others would be for nothing."""
    return inputs.read_base(name) if settings.reads_base(inputs.model_names) else None


def model_tensors(inputs: MergeInputs, settings: ElementwiseSettings, name: str) -> Iterator[Tensor]:
    """The tensors of the models that the method wants, one at a time, in the order in which it wants them."""
    weights = [model.weight for model in inputs.request.models]
    for index in settings.models_read(inputs.model_names, weights):
        yield inputs.read(index, name)


def stream_tensors(
    inputs: MergeInputs,
    streamed: Sequence[Streamed],
    pool: ElementwisePool,
    writer: CheckpointWriter,
    progress: Progress,
    processes: Processes | None = None,
) -> None:
    """Merge and write every one of these tensors that is not finished yet, with what the report says about it.

    While one tensor is merged, the next are read and the last are written, on threads of their own. Neither order nor
    arithmetic depends on them. `processes` is asked before every tensor whether another process has failed.
    """
    progress.start("merging tensor by tensor", len(streamed))
    told = _Checked(progress, processes or Processes())
    by_settings: dict[ElementwiseSettings | None, list[Streamed]] = {}
    for part in streamed:
        by_settings.setdefault(part.settings, []).append(part)
    for settings, members in by_settings.items():
        pending = _pending(inputs, settings, members, writer)
        told.advance(len(members) - len(pending))
        if not pending:
            continue
        merge = None if settings is None else pool.for_streaming(settings)
        _merge_each(inputs, pending, merge, writer, told)
        again = set() if merge is None else set(merge.deferred())
        _merge_each(inputs, [part for part in members if part.name in again], merge, writer, None)


class _Checked(Silent):
    """Asks for failures elsewhere whenever it is told of progress."""

    def __init__(self, progress: Progress, processes: Processes) -> None:
        self._progress, self._processes = progress, processes

    def advance(self, steps: int = 1) -> None:
        self._processes.check()
        self._progress.advance(steps)


def restarts(inputs: MergeInputs, settings: ElementwiseSettings | None) -> bool:
    """Whether a tensor's result depends on having seen all that are merged under the same settings."""
    return settings is not None and elementwise(settings, [1.0] * len(inputs.models), inputs.model_names).restarts


def _pending(
    inputs: MergeInputs, settings: ElementwiseSettings | None, members: Sequence[Streamed], writer: CheckpointWriter
) -> list[Streamed]:
    """What an earlier, killed run left to do: all of it, where a tensor's result depends on having seen the others."""
    if restarts(inputs, settings):
        return list(members)
    return [part for part in members if part.name not in writer.done]


def _merge_each(
    inputs: MergeInputs,
    parts: Sequence[Streamed],
    merge: ElementwiseMerge | None,
    writer: CheckpointWriter,
    progress: Progress | None,
) -> None:
    """Merge and write `parts`, all under one settings; `merge` is None for what is taken from the reference."""
    limit = held_bytes(inputs.request.memory_budget)
    with WriteBehind(limit) as behind, ReadAhead(_wants(inputs, parts), limit) as ahead:
        for turn, part in enumerate(parts):
            tensors = ahead.tensors(turn)
            if merge is None or part.settings is None:
                merged = next(tensors)
            else:
                tensors = _on(_device_for(inputs, part), tensors)
                base = next(tensors) if part.settings.reads_base(inputs.model_names) else None
                merged = merge.merge(part.name, base, tensors)
                del base
            size = merged.numel() * merged.element_size()
            shareable = size >= handing_over.SMALLEST_HANDED_OVER and inputs.shareable(part.name)
            shareable = shareable and type(writer) is CheckpointWriter  # others work on what they write
            behind.submit(size, partial(finish, inputs, writer, part, merged), shareable=shareable)
            del merged, tensors
            if progress is not None:
                progress.advance()


def _device_for(inputs: MergeInputs, part: Streamed) -> torch.device:
    """Where a tensor is merged: on the request's device, if its method and the memory there allow it.

    All of the device's memory counts, not what is free of it now: the answer must not change from run to run.
    """
    device, cpu = resolve_device(inputs.request.device), torch.device("cpu")
    if device == cpu or part.settings is None or not part.settings.runs_anywhere:
        return cpu
    info = inputs.infos[part.name]
    needed = FLOAT * info.numel * part.settings.copies_held(part.name, info.shape)
    return device if needed <= device_memory(device) * 3 // 4 else cpu


def _on(device: torch.device, tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        yield tensor.to(device)
        del tensor  # before the next one is read


def _wants(inputs: MergeInputs, parts: Sequence[Streamed]) -> Iterator[Want]:
    """What merging `parts` reads, in order: for each part the base, where its method wants that, then the models."""
    weights = [model.weight for model in inputs.request.models]
    for turn, part in enumerate(parts):
        name, settings = part.name, part.settings
        size = inputs.reference.tensors[name].nbytes
        want = partial(Want, turn, size)
        if settings is None:
            yield want(partial(inputs.reference.read, name), shareable=False)
            continue
        shareable = size >= handing_over.SMALLEST_HANDED_OVER and inputs.shareable(name)
        if settings.reads_base(inputs.model_names):
            yield want(partial(inputs.read_base, name), shareable=shareable)
        for index in settings.models_read(inputs.model_names, weights):
            yield want(partial(inputs.read, index, name), shareable=shareable)


def finish(inputs: MergeInputs, writer: CheckpointWriter, part: Streamed, merged: Tensor) -> None:
    """Write a merged tensor with its entry of the report."""
    put(inputs, writer, part.name, merged, note=_entry(inputs, part, merged))


def _entry(inputs: MergeInputs, part: Streamed, merged: Tensor) -> Entry:
    entry: Entry = {"name": part.name, "rule": part.rule, "shape": list(merged.shape)}
    if part.reason is not None:
        entry["fallback_reason"] = part.reason
    if part.settings is not None and part.name not in inputs.head:  # a head has no counterpart in the base
        entry["rounding_loss"] = rounding_loss(inputs, [(part.name, merged)])
    return entry


def put(
    inputs: MergeInputs, writer: CheckpointWriter, name: str, tensor: Tensor, *, note: Entry | list[Entry] | None
) -> None:
    """Write a tensor (again, if it was written) under all its tied names.

    The report entry goes with the name written last: when that is there, all of it is.
    """
    names = (*inputs.followers.get(name, ()), name)
    for each in names:
        write = writer.rewrite if each in writer.done else writer.write
        write(each, tensor, note=note if each == name else None)
