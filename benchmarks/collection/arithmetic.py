"""Operations that each contender needs, from shapes alone: a multiplication and an addition are two."""

from __future__ import annotations

from typing import Any

import torch
from contenders import batch_loss, diagonal_settings, gram_settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mats.curvature import Collector, plan_collection
from mats.curvature.plan import CollectionPlan
from mats.curvature.sites import starting_graph
from mats.data.batch import Batch
from mats.store.records import Sums


def needed(model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """Operations over all batches, by contender: products alone, which are nearly all.

    A training step's are counted by torch. Ours are those of a forward pass, of a backward pass to the activations, and
    of what is summed: n·d·(d + 1) for n rows of d numbers (one triangle); for a diagonal every example's own weight
    gradient, and two more for each of its numbers.
    """
    step = sum(_counted(model, batch, frozen=False) for batch in batches)
    passes = sum(_counted(model, batch, frozen=True) for batch in batches)
    plan, sums = _measured(model, batches, gram_settings(model))
    grams = passes + sum(_symmetric(plan, sums))
    plan, _ = _measured(model, batches, diagonal_settings(model))
    weights = 2.0 * sum(model.get_parameter(name).numel() for name in plan.parameters)
    diagonal = step + weights * sum(batch.size for batch in batches)
    return {"step": step, "grams": grams, "diagonal": diagonal}


def _measured(model: nn.Module, batches: list[Batch], settings: Any) -> tuple[CollectionPlan, Sums]:
    plan = plan_collection(model, batches[0], settings)
    with Collector(model, plan) as collector:
        for batch in batches:
            collector.add(batch)
        return plan, collector.sums()


def _symmetric(plan: CollectionPlan, sums: Sums) -> list[float]:
    """Operations of each Gram."""
    found = []
    for item in plan.items:
        statistic, _, name = item.key.partition("/")
        rows = sums.tokens[f"site:{name}" if statistic == "input_gram" else f"layer:{name}"]
        size = sums.tensors[item.key].shape[0]
        found.append(rows * size * (size + 1))
    return found


def _counted(model: nn.Module, batch: Batch, *, frozen: bool) -> float:
    """Operations of one forward and backward; `frozen`: without weight gradients, from the embeddings on."""
    model.eval().requires_grad_(not frozen)
    handles = []
    if frozen:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                handles.append(module.register_forward_hook(lambda _m, _a, output: starting_graph(output)))
    try:
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            batch_loss(model, batch).backward()
        return float(counter.get_total_flops())
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
