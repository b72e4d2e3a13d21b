"""The plan of a merge: what happens to every tensor, which layers are solved together, and what it will take.

Made from headers and manifests; no tensor and no statistic is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from mats.checkpoints import TensorInfo
from mats.engine.coverage import Cover, StoreIndex, cover
from mats.engine.fused_parts import PartInfos, common_bias, covers_of_parts
from mats.engine.group_plan import groups_peak, memory_notes, plan_groups
from mats.engine.handing_over import held_bytes, most_held
from mats.engine.heads import head_summary
from mats.engine.inputs import MergeInputs
from mats.engine.layout import Layout, canonical_shape
from mats.engine.memory import FLOAT
from mats.engine.plan_notes import plan_notes
from mats.engine.plan_parts import Group as Group
from mats.engine.plan_parts import Streamed as Streamed
from mats.engine.plan_parts import System as System
from mats.engine.request import MergeRequest
from mats.engine.sparsified import sparsify_bytes
from mats.errors import RequestError
from mats.methods.assigned import AssignedSettings
from mats.methods.average import AverageSettings
from mats.methods.elementwise import elementwise, is_mergeable
from mats.methods.quadratic import QuadraticSettings
from mats.methods.registry import MethodSettings
from mats.methods.settings import ElementwiseSettings, MethodSettingsBase


@dataclass(frozen=True)
class MergePlan:
    """What a merge will do, before it does it.

    Attributes:
        tensors: of the output.
        streamed: tensors merged one by one.
        groups: systems solved together, in the order of the work.
        by_rule: numbers (scalar parameters) under each rule.
        missing, extra: names by model.
        tied: groups of names that share one tensor.
        fallbacks: parameter → why it did not get the first curvature of its method.
        peak_bytes: estimate of the most memory held at once, beside the program itself.
        output_bytes: size of the weights to be written.
        notes: what the user should know, a sentence each.
        heads: model → parameters of its head, where heads are kept apart.
        memory_notes: what the memory budget prevents, a sentence each; no part of the report.
    """

    tensors: tuple[TensorInfo, ...]
    streamed: tuple[Streamed, ...]
    groups: tuple[Group, ...]
    by_rule: dict[str, int]
    missing: dict[str, tuple[str, ...]]
    extra: dict[str, tuple[str, ...]]
    tied: tuple[tuple[str, ...], ...]
    fallbacks: dict[str, str]
    peak_bytes: int
    output_bytes: int
    notes: tuple[str, ...] = field(default=())
    heads: dict[str, list[str]] = field(default_factory=dict)
    memory_notes: tuple[str, ...] = field(default=())


def plan_merge(request: MergeRequest) -> MergePlan:
    """Plan `request` without doing it.

    Raises:
        RequestError: a path, a base or a store that the method needs is missing.
        InputsMismatch: the models, or models and stores, do not fit together.
        OutOfSpace: a single layer exceeds the memory budget.
    """
    from mats.engine.adapter_output import sized_plan  # these tell their plans in the types of this module
    from mats.engine.adapters import plan_of_sums

    if (sums := plan_of_sums(request)) is not None:
        return sums
    with MergeInputs(request) as inputs:
        plan = make_plan(inputs)
        return sized_plan(inputs, plan) if request.makes_adapter else plan


def make_plan(inputs: MergeInputs) -> MergePlan:
    """Plan the merge of open `inputs`; see `plan_merge`."""
    request = inputs.request
    chosen: dict[str, MethodSettings | AssignedSettings] = {
        info.name: request.assignments.get(info.name) or request.method_for(info.name)
        for info in inputs.leading
        if info.name not in inputs.head
    }
    _check_methods(inputs, chosen.values())
    stores = store_indexes(inputs) if any(method.reads_metadata for method in chosen.values()) else []
    streamed, systems = _decide(inputs, chosen, stores)
    streamed += _head(inputs)
    groups = plan_groups(systems, request, len(inputs.models))
    thinning = sparsify_bytes(request.models, max((info.numel for info in inputs.leading), default=0))
    return MergePlan(
        tensors=tuple(inputs.tensors),
        streamed=tuple(streamed),
        groups=tuple(groups),
        by_rule=_count_by_rule(inputs.tensors, streamed, systems),
        missing=inputs.missing,
        extra=inputs.extra,
        tied=tuple((name, *others) for name, others in inputs.followers.items()),
        fallbacks=_fallbacks(streamed, systems),
        peak_bytes=max(groups_peak(groups), _streaming_bytes(streamed, inputs)) + thinning,
        output_bytes=sum(info.nbytes for info in inputs.tensors),
        notes=plan_notes(inputs, stores),
        memory_notes=memory_notes(groups, request),
        heads={} if inputs.separated is None else head_summary(inputs.separated, inputs.model_names),
    )


def _check_methods(inputs: MergeInputs, methods: Iterable[MethodSettingsBase]) -> None:
    """Every elementwise method must take these models and their weights, and have a base if it reads one.

    Raises:
        RequestError: it does not.
    """
    for method in {id(each): each for each in methods}.values():
        entrywise: list[ElementwiseSettings] = []
        if isinstance(method, QuadraticSettings):
            entrywise = [method.init, method.outside_settings]
        elif isinstance(method, ElementwiseSettings):
            entrywise = [method]
        for start in entrywise:
            if inputs.base is None and start.reads_base(inputs.model_names):
                what = f"method {method.name}" + ("" if start is method else f" with init {start.name}")
                raise RequestError(
                    f"{what}: needs a base model and none is given; add `base:`, or start from the average"
                )
            elementwise(start, inputs.request.weights, inputs.model_names)  # refuses weights that mean nothing to it


def store_indexes(inputs: MergeInputs) -> list[StoreIndex]:
    """The manifest of every model, by the names of the merged checkpoint.

    Raises:
        RequestError: a model has no store.
    """
    indexes = []
    for number, model in enumerate(inputs.request.models):
        store = inputs.store(number)
        indexes.append(StoreIndex(model.name, store, partial(inputs.store_name, number)))
    return indexes


def read_indexes(inputs: MergeInputs) -> list[StoreIndex]:
    """The same after planning; empty where the plan reads no metadata.

    Raises:
        RequestError: as `store_indexes`.
    """
    return store_indexes(inputs) if inputs.opened_stores else []


def _decide(
    inputs: MergeInputs, chosen: dict[str, MethodSettings | AssignedSettings], stores: Sequence[StoreIndex]
) -> tuple[list[Streamed], list[System]]:
    shapes = inputs.infos
    covers: dict[str, Cover] = {}
    parts: dict[str, dict[str, Cover]] = {}
    for name, method in chosen.items():
        if isinstance(method, QuadraticSettings) and is_mergeable(shapes[name].dtype) and inputs.in_all_models(name):
            if (found_parts := covers_of_parts(shapes[name], method, stores)) is not None:
                parts[name] = found_parts
                continue
            covers[name] = cover(name, method, stores) if stores or "identity" in method.fallback else Cover("init")
    riding = {}
    for name, found in covers.items():
        if found.bias in covers and chosen[found.bias] == chosen[name]:
            riding[name] = found.bias
    ridden = set(riding.values())
    part_biases = {name: common_bias(found) for name, found in parts.items()}
    part_biases = {n: bias for n, bias in part_biases.items() if bias in covers and chosen[bias] == chosen[n]}
    ridden |= {bias for bias in part_biases.values() if bias is not None}
    streamed: list[Streamed] = []
    systems: list[System] = []
    for name, method in chosen.items():
        if name in ridden:
            continue
        if name in parts:
            for part, found in parts[name].items():
                bias = found.bias if name in part_biases else None
                systems.append(_system(part, bias, shapes[part], found, cast(QuadraticSettings, method)))
        elif not is_mergeable(shapes[name].dtype):
            streamed.append(Streamed(name, "not_floating", None))
        elif not inputs.in_all_models(name):
            streamed.append(Streamed(name, "base", None, "not in every model"))
        elif isinstance(method, ElementwiseSettings):
            streamed.append(Streamed(name, method.name, method))
        elif covers[name].rule == "init":
            streamed.append(Streamed(name, "init", method.outside_settings, covers[name].reason))
        else:
            systems.append(_system(name, riding.get(name), shapes[name], covers[name], method))
    return streamed, systems


def _head(inputs: MergeInputs) -> list[Streamed]:
    """The output's head: its owner's as it is, or the average of all."""
    average = inputs.request.heads is not None and inputs.request.heads.source == "average"
    kept = [name for name in inputs.infos if name in inputs.head]
    if not average:
        return [Streamed(name, "head", None) for name in kept]
    return [
        Streamed(name, "average", AverageSettings())
        if is_mergeable(inputs.infos[name].dtype)
        else Streamed(name, "not_floating", None)
        for name in kept
    ]


def _system(name: str, bias: str | None, info: TensorInfo, found: Cover, settings: QuadraticSettings) -> System:
    layout: Layout = "flat"
    if found.rule == "block":
        layout = "vector"
    elif found.terms:
        layout = cast(Layout, found.terms[-1].layout)  # a tied embedding is solved in the frame of its output head
    shape = canonical_shape(info.shape, layout, bias=bias is not None)
    return System(name, bias, layout, shape, found.rule, found.terms, settings, found.reason)


def _streaming_bytes(streamed: Sequence[Streamed], inputs: MergeInputs) -> int:
    """What the largest of the tensors merged one by one takes, by its method's own word, and what waits around it."""
    taken = [0]
    for part in streamed:
        shape = inputs.infos[part.name].shape
        copies = 1 if part.settings is None else part.settings.copies_held(part.name, shape)
        copies += 0 if part.settings is None else part.settings.copies_per_model * len(inputs.models)
        taken.append(FLOAT * copies * inputs.infos[part.name].numel)
    sizes = [FLOAT * inputs.infos[part.name].numel for part in streamed]
    return max(taken) + 2 * most_held(sizes, held_bytes(inputs.request.memory_budget))  # read ahead, and to be written


def _count_by_rule(
    tensors: Sequence[TensorInfo], streamed: Sequence[Streamed], systems: Sequence[System]
) -> dict[str, int]:
    sizes = PartInfos((info.name, info) for info in tensors)
    counts: dict[str, int] = {}
    for part in streamed:
        counts[part.rule] = counts.get(part.rule, 0) + sizes[part.name].numel
    for system in systems:
        counts[system.rule] = counts.get(system.rule, 0) + sum(sizes[name].numel for name in system.names)
    return dict(sorted(counts.items()))


def _fallbacks(streamed: Sequence[Streamed], systems: Sequence[System]) -> dict[str, str]:
    reasons = {part.name: part.reason for part in streamed} | {system.weight: system.reason for system in systems}
    return {name: reason for name, reason in sorted(reasons.items()) if reason is not None}
