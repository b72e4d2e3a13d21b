"""The plan of a collection: sites, layers, what stays uncovered and why, memory, and passes over the data.

It is made from one look at the first batch (`coverage`), before the data are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from mats.curvature.coverage import Examination, examine
from mats.curvature.masks import Side
from mats.curvature.names import ParameterNames, holders
from mats.curvature.rules import EmbeddingRule, LayerRule, layer_rule, why_no_rule
from mats.curvature.settings import CollectionSettings
from mats.curvature.sites import Call
from mats.curvature.taps import LayerTap, Tap, tap_of
from mats.data.batch import Batch
from mats.errors import OutOfSpace
from mats.store.records import LayerRecord, SiteRecord


@dataclass(frozen=True)
class Item:
    """One tensor of sums: its key in `Sums.tensors` and its size in bytes while it accumulates."""

    key: str
    bytes: int


@dataclass(frozen=True)
class CollectionPlan:
    """What will be measured, and where.

    Attributes:
        settings: The settings planned for.
        sites: Where inputs are measured, in the order in which the model runs them.
        layers: Layers with a Gram.
        parameters: Checkpoint names with `diagonal` or `block`.
        uncovered: Checkpoint name → why no requested statistic covers it.
        notes: Name of a layer or parameter → what was left out although asked for, and why.
        items: All tensors of sums.
        partitions: Keys to accumulate in each pass over the data.
        sides: For each layer, whose mask each of its calls in one forward pass takes; None for calls left out.
        tapped: Parameters whose per-example gradients are read by hooks; the others in `parameters` are measured by
            one forward and backward per example.
        names: Model's parameter name → checkpoint name, as given.
    """

    settings: CollectionSettings
    sites: tuple[SiteRecord, ...]
    layers: tuple[LayerRecord, ...]
    parameters: tuple[str, ...]
    uncovered: Mapping[str, str]
    notes: Mapping[str, str]
    items: tuple[Item, ...]
    partitions: tuple[tuple[str, ...], ...]
    sides: Mapping[str, tuple[Side | None, ...]] = field(repr=False)
    tapped: frozenset[str] = field(repr=False)
    names: Mapping[str, str] | None = field(repr=False)

    @property
    def bytes(self) -> int:
        """Bytes of all sums together."""
        return sum(item.bytes for item in self.items)

    @property
    def partition_bytes(self) -> tuple[int, ...]:
        """Bytes of the sums of each pass."""
        sizes = {item.key: item.bytes for item in self.items}
        return tuple(sum(sizes[key] for key in keys) for keys in self.partitions)


def plan_collection(
    model: nn.Module, batch: Batch, settings: CollectionSettings, names: Mapping[str, str] | None = None
) -> CollectionPlan:
    """Look at `model` on the first batch and plan what to measure.

    Args:
        model: The model; it leaves as it came.
        batch: The first batch; a few of its examples are run.
        settings: What to measure.
        names: Parameter name in the model → name in the checkpoint; parameters that are absent are not in the
            checkpoint and not measured. None: the names are the same.

    Raises:
        ShapeMismatch: A mask does not fit the activations of a layer.
        OutOfSpace: One tensor of sums alone exceeds the memory budget.
    """
    return _Planner(model, batch, settings, names).plan()


class _Planner:
    """Builds a plan step by step; each step fills one field."""

    def __init__(
        self, model: nn.Module, batch: Batch, settings: CollectionSettings, names: Mapping[str, str] | None
    ) -> None:
        self.model = model
        self.settings = settings
        self.given_names = names
        self.names = ParameterNames(model, names)
        self.holders = holders(model)
        self.modules = dict(model.named_modules())
        self.taps = {name: tap for name, module in self.modules.items() if (tap := tap_of(module)) is not None}
        self.chosen = {name: p for name, p in self.names.by_name.items() if settings.selects(name)}
        device = next(model.parameters()).device
        self.examination: Examination = examine(model, self.taps, self.chosen, batch.to(device), settings)
        self.uncovered: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.items: list[Item] = []
        self.gram_covered: set[str] = set()
        if self.names.absent:
            some = ", ".join(self.names.absent[:3])
            self.notes["not in the checkpoint"] = f"{len(self.names.absent)} parameters, not measured: {some} …"

    def plan(self) -> CollectionPlan:
        """Run the steps."""
        sites, layers = self._sites_and_layers()
        parameters, tapped = self._per_example_parameters()
        self._name_uncovered(parameters)
        return CollectionPlan(
            settings=self.settings,
            sites=sites,
            layers=layers,
            parameters=parameters,
            uncovered=self.uncovered,
            notes=self.notes,
            items=tuple(self.items),
            partitions=partitions(self.items, self.settings.memory_budget),
            sides={
                name: tuple(None if call.is_shared else call.side for call in calls)
                for name, calls in self.examination.recorder.calls.items()
            },
            tapped=tapped,
            names=None if self.given_names is None else dict(self.given_names),
        )

    # -- Grams ---------------------------------------------------------------------------------------------------------

    def _sites_and_layers(self) -> tuple[tuple[SiteRecord, ...], tuple[LayerRecord, ...]]:
        """Group the layers that can be measured by their inputs."""
        if not self.settings.wants("input_gram", "output_gram"):
            return (), ()
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, calls in self.examination.recorder.calls.items():
            if self._gram_problem(name, calls) is None:
                groups.setdefault(tuple(call.identity for call in calls if not call.is_shared), []).append(name)
        sites: list[SiteRecord] = []
        layers: list[LayerRecord] = []
        for members in groups.values():
            site = self._site(members)
            self._note_shared_calls(members)
            sites.append(site)
            layers += [self._layer(member, site) for member in members]
        self._add_gram_items(sites, layers)
        return tuple(sites), tuple(layers)

    def _note_shared_calls(self, members: list[str]) -> None:
        for name in members:
            calls = self.examination.recorder.calls[name]
            shared = sum(call.is_shared for call in calls)
            if shared:
                self.notes[name] = (
                    f"Grams of {len(calls) - shared} calls of {len(calls)}: the others read what all examples share"
                )

    def _gram_problem(self, name: str, calls: list[Call]) -> str | None:
        """Why the layer `name` has no Gram, noted for its parameters; None when it has one."""
        weight = self._rule(name).module.get_parameter("weight")
        target = self.names.of(weight)
        if target is None or target not in self.chosen:
            return "not asked for"
        problem = next((call.problem for call in calls if call.problem is not None and not call.is_shared), None)
        if problem is None and all(call.is_shared for call in calls):
            problem = "it reads what all examples share, so its rows belong to none of them"
        if id(weight) in self.examination.wrong_sum:
            error = self.examination.wrong_sum[id(weight)]
            problem = f"its hooks miss part of its gradient (relative error {error:.1e}): it is used outside its module"
        if problem is not None:
            self.uncovered[target] = problem
        return problem

    def _rule(self, name: str) -> LayerRule:
        tap = self.taps[name]
        assert isinstance(tap, LayerTap)
        return tap.rule

    def _bias(self, name: str) -> str | None:
        """Checkpoint name of the bias that rides along with a layer's weight, or None."""
        bias = self._rule(name).module._parameters.get("bias")
        if bias is None or id(bias) in self.examination.wrong_sum or len(self.holders[id(bias)]) > 1:
            return None
        target = self.names.of(bias)
        return target if target in self.chosen else None

    def _site(self, members: list[str]) -> SiteRecord:
        rule = self._rule(members[0])
        if isinstance(rule, EmbeddingRule):
            return SiteRecord(members[0], "counts", rule.in_size, homogeneous=False)
        homogeneous = self.settings.homogeneous and any(self._bias(name) is not None for name in members)
        return SiteRecord(members[0], "gram", rule.in_size + int(homogeneous), homogeneous)

    def _layer(self, name: str, site: SiteRecord) -> LayerRecord:
        rule = self._rule(name)
        weight = self.names.of(rule.module.get_parameter("weight"))
        assert weight is not None
        bias = self._bias(name)
        self.gram_covered.add(weight)
        if bias is not None and site.homogeneous:
            self.gram_covered.add(bias)
        return LayerRecord(name, rule.kind, weight, bias, site.name, rule.layout, rule.out_size)

    def _add_gram_items(self, sites: list[SiteRecord], layers: list[LayerRecord]) -> None:
        """The tensors that Grams take, and which are left out."""
        width = torch.finfo(self.settings.dtype).bits // 8
        if self.settings.wants("input_gram"):
            for site in sites:
                count = site.size * 8 if site.kind == "counts" else site.size**2 * width
                self.items.append(Item(f"input_gram/{site.name}", count))
        if not self.settings.wants("output_gram"):
            return
        # In the order in which the model runs them, so that the passes split along its depth: the sums of a pass lie
        # together, and what comes after its last layer, or its gradients before the first, need not be computed.
        order = {name: position for position, name in enumerate(self.examination.recorder.calls)}
        for layer in sorted(layers, key=lambda layer: order[layer.name]):
            weight = self.chosen[layer.weight]
            if layer.out_size > self.settings.output_gram_limit:
                limit = self.settings.output_gram_limit
                self.notes[layer.name] = f"no output_gram: {layer.out_size} outputs, above output_gram_limit = {limit}"
            elif id(weight) in self.examination.no_gradient:
                self.notes[layer.name] = "no output_gram: no gradient reached it"
            else:
                self.items.append(Item(f"output_gram/{layer.name}", layer.out_size**2 * width))

    # -- diagonal and block --------------------------------------------------------------------------------------------

    def _per_example_parameters(self) -> tuple[tuple[str, ...], frozenset[str]]:
        """Parameters with `diagonal` or `block`, and those of them that taps measure."""
        if not self.settings.wants("diagonal", "block"):
            return (), frozenset()
        readable: dict[int, bool] = {}
        for name, tap in self.taps.items():
            for parameter in tap.parameters.values():
                readable[id(parameter)] = readable.get(id(parameter), True) and self._is_readable(name, tap)
        covered: list[str] = []
        tapped: set[str] = set()
        width = torch.finfo(self.settings.dtype).bits // 8
        for name, parameter in self.chosen.items():
            statistics = self._statistics_of(name, parameter)
            if not statistics:
                continue
            covered.append(name)
            sizes = {"diagonal": parameter.numel() * width, "block": parameter.numel() ** 2 * width}
            self.items += [Item(f"{statistic}/{name}", sizes[statistic]) for statistic in statistics]
            if readable.get(id(parameter), False) and self._is_credited(parameter):
                tapped.add(name)
        return tuple(covered), frozenset(tapped)

    def _is_readable(self, name: str, tap: Tap) -> bool:
        """Embeddings are read by hooks only where their ids belong to the batch, example by example."""
        if not isinstance(tap, LayerTap) or not isinstance(tap.rule, EmbeddingRule):
            return True
        if name in self.examination.spread:
            return True
        return all(call.problem is None for call in self.examination.recorder.calls.get(name, []))

    def _statistics_of(self, name: str, parameter: nn.Parameter) -> list[str]:
        """Which of `diagonal` and `block` this parameter gets."""
        if not parameter.is_floating_point():
            self.uncovered[name] = f"{parameter.dtype} weights have no gradient"
            return []
        if id(parameter) in self.examination.no_gradient:
            self.uncovered[name] = "no gradient reached it"
            return []
        statistics = ["diagonal"] if self.settings.selects_for("diagonal", name) else []
        if self.settings.selects_for("block", name) and is_vector(parameter):
            if parameter.numel() <= self.settings.block_limit:
                statistics.append("block")
            else:
                limit = self.settings.block_limit
                self.notes[name] = f"no block: {parameter.numel()} numbers, above block_limit = {limit}"
        return statistics

    def _is_credited(self, parameter: nn.Parameter) -> bool:
        """Whether hooks see all uses of the parameter and credit them to the right examples."""
        seen = self.examination
        return id(parameter) not in seen.wrong_sum and id(parameter) not in seen.wrong_examples

    # -- what is left --------------------------------------------------------------------------------------------------

    def _name_uncovered(self, parameters: tuple[str, ...]) -> None:
        """Give every chosen parameter without a statistic its reason."""
        covered = self.gram_covered | set(parameters)
        reasons = {name: reason for name, reason in self.uncovered.items() if name not in covered}
        for name, parameter in self.chosen.items():
            if name not in covered and name not in reasons:
                reasons[name] = self._reason(parameter)
        self.uncovered = {name: reasons[name] for name in self.chosen if name in reasons}
        buffers = set(self.model.state_dict()) - {
            name for name, _ in self.model.named_parameters(remove_duplicate=False)
        }
        known = self.given_names or {name: name for name in buffers}
        for name in sorted(buffers):
            if known.get(name) is not None and self.settings.selects(known[name]):
                self.uncovered[known[name]] = "a buffer, not a parameter: it has no gradient"

    def _reason(self, parameter: nn.Parameter) -> str:
        found = self.holders[id(parameter)]
        name, module = found[0]
        if layer_rule(module) is not None and not any(n in self.examination.recorder.calls for n, _ in found):
            return f"{name} never ran on the first batch"
        if id(parameter) in self.examination.no_gradient:
            return "no gradient reached it"
        if layer_rule(module) is not None and not self.settings.wants("input_gram", "output_gram"):
            return "a matrix: `block` is for vectors only"
        if layer_rule(module) is not None:
            weight = self.names.of(module.get_parameter("weight"))
            if weight in self.uncovered:
                return f"a bias that rides with {weight}, which has no Gram: {self.uncovered[weight]}"
            return "a bias without the homogeneous coordinate: `diagonal` or `block` covers it"
        return why_no_rule(module)


def is_vector(parameter: nn.Parameter) -> bool:
    """Whether all but one dimension have size 1: biases, norm scales, (IA)³ vectors [d, 1] and [1, d]."""
    return sum(size > 1 for size in parameter.shape) <= 1


def partitions(items: list[Item], budget: int | None) -> tuple[tuple[str, ...], ...]:
    """Split the sums, in order, into passes whose sums fit `budget` bytes.

    Raises:
        OutOfSpace: One tensor alone exceeds the budget.
    """
    largest = max(items, key=lambda item: item.bytes, default=None)
    if budget is not None and largest is not None and largest.bytes > budget:
        raise OutOfSpace(
            f"{largest.key}: its sum alone takes {largest.bytes} bytes, the largest of all, and memory_budget is "
            f"{budget}; a budget of {largest.bytes} or more would do"
        )
    groups: list[list[str]] = [[]]
    used = 0
    for item in items:
        if budget is not None and groups[-1] and used + item.bytes > budget:
            groups.append([])
            used = 0
        groups[-1].append(item.key)
        used += item.bytes
    return tuple(tuple(group) for group in groups)
