"""Several merges of the same models in one pass: methods that differ in scale, density or kind, an output for each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from mats.checkpoints import CheckpointWriter
from mats.engine.asked import asked_paths
from mats.engine.belonging import check_fingerprints
from mats.engine.describing import build_report, build_run_info, describe_plan
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.merging import HOPELESS, LONGEST_SHARE, MergeResult, open_writer, write_companions
from mats.engine.plan import MergePlan, Streamed, make_plan
from mats.engine.processes import together
from mats.engine.request import MergeRequest
from mats.engine.streaming import ElementwisePool, base_tensor, finish, model_tensors
from mats.engine.threads import one_thread
from mats.errors import RequestError
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.methods.elementwise import ElementwiseMerge
from mats.methods.settings import ElementwiseSettings
from mats.methods.ties_merge import TiesMerge
from mats.progress import Progress


def merge_variants(requests: Sequence[MergeRequest], progress: Progress | None = None) -> list[MergeResult]:
    """Merge each of `requests`, which differ in method settings and output alone, reading every tensor once.

    Each output has the bytes that `merge` gives for its request alone. TIES merges that differ in scale alone share
    their thresholds and votes too; other methods that look at whole models first (TIES at several densities) take that
    look one after another. Beside one merge, memory holds one tensor of every model. Of several processes the first
    does it all.

    Raises:
        RequestError: no request, two of one output, requests that differ in anything else, or a method that does not
            work entry by entry or reads metadata.
        MatsError: as `merge`; outputs published before stay.
    """
    _check(requests)
    for request in requests:
        refuse_existing(request.output, overwrite=request.overwrite)
        refuse_replacing_inputs(request.output, request.sources)
    with together(resolve_device(requests[0].device), wait_seconds=LONGEST_SHARE) as processes:
        shown = processes.progress(progress)
        results: list[MergeResult] = processes.first_says(lambda: _merge_all(requests, shown))
    return results


def _merge_all(requests: Sequence[MergeRequest], progress: Progress) -> list[MergeResult]:
    started = time.time()
    with ExitStack() as stack:
        inputs = stack.enter_context(MergeInputs(requests[0]))
        kept = KeptTensors(inputs)
        variants = [_Variant(stack, VariantInputs(inputs, request, kept), progress) for request in requests]
        try:
            with one_thread():
                _stream(variants, progress)
            return [variant.publish(started, progress) for variant in variants]
        except HOPELESS:
            for variant in variants:
                variant.discard()
            raise


class KeptTensors:
    """The tensors of one name, read once however often they are asked for."""

    def __init__(self, inputs: MergeInputs) -> None:
        self._inputs = inputs
        self._name: str | None = None
        self._tensors: dict[int | None, Tensor] = {}

    def read(self, index: int | None, name: str) -> Tensor:
        """A copy of model `index`'s tensor (None: of the base's) that the caller may overwrite."""
        if name != self._name:
            self._name, self._tensors = name, {}
        if index not in self._tensors:
            read = self._inputs.read_base(name) if index is None else self._inputs.read(index, name)
            self._tensors[index] = read
        return self._tensors[index].clone()


class VariantInputs(MergeInputs):
    """The inputs of one variant: those of all, read through what is kept."""

    def __init__(self, inputs: MergeInputs, request: MergeRequest, kept: KeptTensors) -> None:
        self.__dict__.update(vars(inputs))  # the open files are those of `inputs`, which closes them
        self.request = request
        self._kept = kept

    def read(self, index: int, name: str) -> Tensor:
        """See `MergeInputs.read`."""
        return self._kept.read(index, name)

    def read_base(self, name: str) -> Tensor:
        """See `MergeInputs.read_base`."""
        return self._kept.read(None, name)


class _Variant:
    """One of the merges: its plan, its writer, and what merges its tensors."""

    def __init__(self, stack: ExitStack, inputs: VariantInputs, progress: Progress) -> None:
        self.inputs = inputs
        self.plan: MergePlan = make_plan(inputs)
        self.pool = ElementwisePool(inputs, self.plan, progress)
        self.writer: CheckpointWriter = stack.enter_context(open_writer(inputs, self.plan, None))
        self.merges: dict[ElementwiseSettings, ElementwiseMerge] = {}

    def prepare(self, earlier: Sequence[_Variant]) -> None:
        """Make every merge of the plan ready; a TIES merge follows an earlier one where it can."""
        for part in self.plan.streamed:
            if part.settings is not None and part.settings not in self.merges:
                self.merges[part.settings] = self._following(part, earlier) or self.pool.for_streaming(part.settings)

    def _following(self, part: Streamed, earlier: Sequence[_Variant]) -> ElementwiseMerge | None:
        weights = [model.weight for model in self.inputs.request.models]
        assert part.settings is not None
        merge = part.settings.build_for(self.inputs.model_names, weights)
        if not isinstance(merge, TiesMerge):
            return None
        for other in earlier:
            (settings,) = {each.settings for each in other.plan.streamed if each.name == part.name}
            leader = None if settings is None else other.merges[settings]
            if isinstance(leader, TiesMerge) and merge.follow(leader):
                return merge
        return None

    def merge(self, part: Streamed) -> None:
        """Merge and write one tensor."""
        if part.settings is None:
            merged = self.inputs.reference.read(part.name)
        else:
            base = base_tensor(self.inputs, part.settings, part.name)
            models = model_tensors(self.inputs, part.settings, part.name)
            merged = self.merges[part.settings].merge(part.name, base, models)
        finish(self.inputs, self.writer, part, merged)

    def deferred(self) -> set[str]:
        """Tensors to be merged once more, now that the whole has been seen."""
        return {name for merge in self.merges.values() for name in merge.deferred()}

    def publish(self, started: float, progress: Progress) -> MergeResult:
        """Write the report and everything else beside the weights, and give the output its name."""
        for line in describe_plan(self.plan, self.inputs.request):
            progress.note(line)
        fingerprints = check_fingerprints(self.inputs, progress)
        report = build_report(self.inputs, self.plan, dict(self.writer.notes), fingerprints)
        run_info = build_run_info(self.inputs.request, started)
        write_companions(self.inputs, self.writer.folder, report, run_info, None)
        return MergeResult(self.writer.publish(), report)

    def discard(self) -> None:
        """Remove partial work."""
        self.writer.abandon()
        shutil.rmtree(self.writer.folder.parent, ignore_errors=True)


def _stream(variants: Sequence[_Variant], progress: Progress) -> None:
    """Every tensor through every variant, before the next tensor."""
    for number, variant in enumerate(variants):
        variant.prepare(variants[:number])
    names = [part.name for part in variants[0].plan.streamed]
    parts = [{part.name: part for part in variant.plan.streamed} for variant in variants]
    progress.start(f"merging tensor by tensor, {len(variants)} ways", len(names))

    for name in names:
        for variant, own in zip(variants, parts, strict=True):
            variant.merge(own[name])
        progress.advance()
    again = [variant.deferred() for variant in variants]
    for name in names:
        if any(name in each for each in again):  # by all: one that follows needs its leader's votes
            for variant, own in zip(variants, parts, strict=True):
                variant.merge(own[name])


def _check(requests: Sequence[MergeRequest]) -> None:
    """Raises RequestError unless `requests` can be merged together."""
    if not requests:
        raise RequestError("variants: the list is empty; at least one request is needed")
    first = requests[0]
    for request in requests:
        common = replace(first, method=request.method, output=request.output, resolved_recipe=request.resolved_recipe)
        if request != common or request.makes_adapter or asked_paths(request) != asked_paths(first):
            raise RequestError(
                f"{request.output}: variants may differ in method settings and output alone, from {first.output}; "
                "merge it by itself"
            )
        for method in (request.method, *(rule.method for rule in request.rules)):
            if not isinstance(method, ElementwiseSettings) or method.reads_metadata:
                raise RequestError(
                    f"{request.output}: method {method.name} is no variant of a single pass: it needs metadata or a "
                    "solver; merge it by itself"
                )
    outputs = [request.output for request in requests]
    twice = next((output for output in outputs if outputs.count(output) > 1), None)
    if twice is not None:
        raise RequestError(f"{twice}: is the output of {outputs.count(twice)} variants; outputs must differ")
