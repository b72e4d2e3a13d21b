"""The rise in every task's loss that the metadata predict for any weights, with no data at hand.

    rise of task i at W  ≈  ½ ⟨W − W_i, C_i (W − W_i)⟩        summed over the parameters that have curvature

C_i is the Fisher information of model i as measured (K-FAC, block or diagonal; a mean over examples, neither shrunk nor
floored), so the rise is in nats per example, counted from the model's own loss at W_i. It leaves out the gradient at
W_i, what happens between layers, and every parameter without curvature, of which it states the share. Input Grams alone
give another number under another name, the output error: half the mean square of how far layer outputs move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, labels, match_tensors, open_checkpoint
from mats.engine.belonging import check_fingerprints
from mats.engine.inputs import MergeInputs
from mats.engine.measured import Quantity, measured, measured_loader
from mats.engine.plan import Group, MergePlan, System
from mats.engine.request import MergeRequest
from mats.errors import RequestError
from mats.methods.elementwise import is_mergeable
from mats.progress import Progress, Silent

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class CandidatePrediction:
    """What is predicted for one candidate.

    Attributes:
        name: how the candidate is called.
        layers: weight → task → its part of the rise.
    """

    name: str
    layers: Mapping[str, Mapping[str, float]]

    @property
    def tasks(self) -> dict[str, float]:
        """Task → predicted rise, over all layers."""
        totals: dict[str, float] = {}
        for parts in self.layers.values():
            for task, value in parts.items():
                totals[task] = totals.get(task, 0.0) + value
        return totals

    def mean(self, weights: Mapping[str, float]) -> float:
        """Σ λ_i rise_i ÷ Σ λ_i."""
        tasks = self.tasks
        return sum(weights[task] * value for task, value in tasks.items()) / sum(weights[task] for task in tasks)


@dataclass(frozen=True)
class Prediction:
    """What is predicted for all candidates, over the same parameters.

    Attributes:
        quantity: "loss" (a rise in nats per example) or "output_error".
        weights: task → λ_i.
        candidates: in the order asked for.
        covered: numbers (scalar parameters) that have curvature in every store and are in every candidate.
        total: floating-point numbers of the model, without heads where these are kept out of merges.
        uncovered: parameter → why it has no part in the prediction.
        losses: how an example's loss was taken, by task: "mean" over its target tokens or their "sum".
    """

    quantity: Quantity
    weights: Mapping[str, float]
    candidates: tuple[CandidatePrediction, ...]
    covered: int
    total: int
    uncovered: Mapping[str, str]
    losses: Mapping[str, str]

    @property
    def share(self) -> float:
        """Part of the parameters that the prediction covers, in [0, 1]."""
        return self.covered / self.total if self.total else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "quantity": self.quantity,
            "unit": "nats per example" if self.quantity == "loss" else "half the mean squared change of layer outputs",
            "losses": dict(self.losses),
            "parameters": {"covered": self.covered, "total": self.total, "share": self.share},
            "uncovered": dict(self.uncovered),
            "candidates": [
                {
                    "name": candidate.name,
                    "mean": candidate.mean(self.weights),
                    "tasks": candidate.tasks,
                    "layers": {name: dict(parts) for name, parts in candidate.layers.items()},
                }
                for candidate in self.candidates
            ],
        }


def predict(
    request: MergeRequest,
    candidates: Mapping[str, str],
    *,
    quantity: Quantity | None = None,
    inputs_too: bool = True,
    progress: Progress | None = None,
) -> Prediction:
    """Predict every task's loss at the weights of every candidate.

    Args:
        request: models with their metadata, and the base; its method and rules have no say, its output is not touched.
            Losses are those around the models themselves, sparsified or not.
        candidates: name → checkpoint or merged folder with the tensors of the models.
        quantity: None: the loss, or the output error where the stores hold input Grams alone.
        inputs_too: put the base (if there is one) and every model before the candidates.
        progress: told of each group of layers.

    Returns:
        The prediction. Held at once: the curvature of one group of layers within the memory budget, and one candidate.

    Raises:
        RequestError: no parameter has the curvature, a model has no store or a proxy, or nothing is to be predicted.
        InputsMismatch, ShapeMismatch, FingerprintMismatch: candidate, models and stores do not fit together.
        CheckpointCorrupt, NonFiniteWeights, StoreCorrupt, NonFiniteStatistic: from the files.
    """
    dense = replace(request, models=tuple(replace(model, sparsify=None) for model in request.models))
    with measured(dense, quantity) as (inputs, plan, chosen), ExitStack() as opened:
        _refuse_proxies(inputs)
        readers = _inputs(inputs) if inputs_too else {}
        names: list[frozenset[str]] = []
        for name, path in candidates.items():
            if name in readers:
                raise RequestError(
                    f"predict: the name {name!r} of {path} is taken by a model or the base; give another"
                )
            checkpoint = opened.enter_context(open_checkpoint(path))
            readers[name], present = _candidate(inputs, checkpoint)
            names.append(present)
        if not readers:
            raise RequestError("predict: nothing to predict for; name a checkpoint, or ask for base and models too")
        groups = list(_within(plan.groups, frozenset.intersection(*names) if names else None))
        if not groups:
            raise RequestError("predict: no parameter with curvature is in every candidate; leave one of them out")
        check_fingerprints(inputs, progress or Silent())
        layers = _evaluate(inputs, plan, groups, readers, progress or Silent())
        return _prediction(inputs, plan, groups, chosen, layers)


def _refuse_proxies(inputs: MergeInputs) -> None:
    """What stands in for curvature tells of no loss.

    Raises:
        RequestError: a store is a proxy.
    """
    for index in inputs.opened_stores:
        if (kind := inputs.store(index).proxy) is not None:
            raise RequestError(
                f"predict: the metadata of {inputs.request.models[index].name} are a proxy ({kind}), which tells of no "
                "loss; metadata measured by save-metadata would be right"
            )


def _inputs(inputs: MergeInputs) -> dict[str, Read]:
    readers: dict[str, Read] = {}
    if inputs.base is not None:
        readers["base"] = inputs.read_base
    for index, model in enumerate(inputs.request.models):
        readers[model.name] = partial(inputs.read, index)
    return readers


def _candidate(inputs: MergeInputs, checkpoint: Checkpoint) -> tuple[Read, frozenset[str]]:
    """How to read a candidate by the names of the output, and which of them it has in the right shape."""
    match = match_tensors(inputs.reference, [checkpoint], strict=False)
    (label,) = labels([checkpoint])
    aliases = match.aliases.get(label, {})
    present = frozenset(match.common) - set(match.shape_mismatch.get(label, {}))

    def read(name: str) -> Tensor:
        return checkpoint.read(aliases.get(name, name))

    return read, present


def _within(groups: Sequence[Group], names: frozenset[str] | None) -> Iterator[Group]:
    """The groups, without the systems that some candidate lacks."""
    for group in groups:
        kept = tuple(system for system in group.systems if names is None or all(name in names for name in system.names))
        if kept:
            yield replace(group, systems=kept)


def _evaluate(
    inputs: MergeInputs, plan: MergePlan, groups: Sequence[Group], readers: Mapping[str, Read], progress: Progress
) -> dict[str, dict[str, dict[str, float]]]:
    """Candidate → weight → task → rise; differences and products in float64, factors as measured."""
    loader = measured_loader(inputs, plan)
    tasks = [model.name for model in inputs.request.models]
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in readers}
    progress.start("predicting", sum(len(group.systems) for group in groups))
    for group in groups:
        targets = loader.targets(group, torch.float64)
        quadratic = loader.quadratic(group, torch.float32)
        quadratic.check_values()
        for name, read in readers.items():
            losses = quadratic.losses(targets, loader.stacked(group, torch.float64, read)).T.tolist()
            for system, values in zip(group.systems, losses, strict=True):
                found[name][system.weight] = dict(zip(tasks, values, strict=True))
        progress.advance(len(group.systems))
    return found


def _prediction(
    inputs: MergeInputs,
    plan: MergePlan,
    groups: Sequence[Group],
    quantity: Quantity,
    layers: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Prediction:
    covered = {name for group in groups for name in group.names}
    bodies = (info for info in inputs.leading if is_mergeable(info.dtype) and info.name not in inputs.head)
    sizes = {info.name: info.numel for info in bodies}
    return Prediction(
        quantity=quantity,
        weights={model.name: model.weight for model in inputs.request.models},
        candidates=tuple(CandidatePrediction(name, parts) for name, parts in layers.items()),
        covered=sum(size for name, size in sizes.items() if name in covered),
        total=sum(sizes.values()),
        uncovered=_uncovered(plan, sizes, covered),
        losses={
            model.name: str(inputs.store(index).manifest.estimator.get("loss", "mean"))
            for index, model in enumerate(inputs.request.models)
        },
    )


def _uncovered(plan: MergePlan, sizes: Mapping[str, int], covered: set[str]) -> dict[str, str]:
    systems: dict[str, System] = {
        name: system for group in plan.groups for system in group.systems for name in system.names
    }
    return {
        name: "not in every candidate" if name in systems else plan.fallbacks.get(name, "not in every model")
        for name in sizes
        if name not in covered
    }
