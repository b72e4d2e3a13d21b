"""Passes along depth: the forward ends after the last layer needed, gradients stop at the first; same sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from curvature_comparison import largest_difference
from curvature_models import FAMILIES, seq2seq_batch, tiny_t5
from torch import Tensor, nn

from mats.curvature import CollectionSettings, Collector, collect, plan_collection
from mats.curvature.settings import STATISTICS
from mats.errors import WorkFailed

GRAMS = CollectionSettings(accumulate_dtype="float64")


class Watched:
    """Which modules ran, and which of their outputs had a graph behind them."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.in_graph: set[str] = set()


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    seen = Watched()
    modules = [(name, module) for name, module in model.named_modules() if not list(module.children())]

    def starts(name: str) -> Any:
        return lambda _module, _inputs: seen.ran.add(name)

    def hook_of(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                seen.in_graph.add(name)

        return hook

    handles = [module.register_forward_pre_hook(starts(name)) for name, module in modules]
    handles += [module.register_forward_hook(hook_of(name)) for name, module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tight(model: nn.Module, batch: Any, settings: CollectionSettings) -> CollectionSettings:
    """The same settings in about eight passes."""
    plan = plan_collection(model, batch, settings)
    return replace(settings, memory_budget=max(plan.bytes // 8, *(item.bytes for item in plan.items)))


@pytest.mark.parametrize(
    ("family", "labels"),
    [
        ("t5", "empirical"),
        ("t5", "exact"),
        ("bert", "exact"),
        ("gpt2", "sampled"),
        ("vit", "empirical"),
        ("ia3_t5", "sampled"),
    ],
)
def test_passes_along_depth_give_the_sums_of_one_pass(family: str, labels: Any) -> None:
    make_model, make_batch = FAMILIES[family]
    if (family, labels) == ("t5", "exact"):
        make_batch = partial(seq2seq_batch, choices=2)
    model, batches = make_model(), [make_batch(3, 0), make_batch(2, 3)]
    settings = replace(GRAMS, statistics=STATISTICS if family in ("vit", "ia3_t5") else GRAMS.statistics, labels=labels)
    whole = collect(model, batches, settings)[1]
    plan, split = collect(model, batches, tight(model, batches[0], settings))
    assert len(plan.partitions) > 3
    assert largest_difference(split, whole) < 1e-12
    assert split.tokens == whole.tokens


def test_the_forward_ends_after_the_last_input_needed() -> None:
    model, batch = tiny_t5(), seq2seq_batch(3)
    plan = plan_collection(model, batch, tight(model, batch, replace(GRAMS, statistics=("input_gram",))))
    counts, last = [], len(plan.partitions) - 1
    for partition in range(last + 1):
        with Collector(model, plan, partition) as collector, watching(model) as seen:
            collector.add(batch)
        counts.append(len(seen.ran))
        sites = {key.removeprefix("input_gram/") for key in plan.partitions[partition]}
        readers = {layer.name for layer in plan.layers if layer.site in sites}
        assert readers <= seen.ran
    encoder = [index for index, keys in enumerate(plan.partitions) if all("encoder" in key for key in keys)]
    assert encoder
    assert counts[encoder[0]] < counts[last]
    with Collector(model, plan, encoder[0]) as collector, watching(model) as seen:
        collector.add(batch)
    assert not any(name.startswith("decoder") for name in seen.ran)


def test_gradients_stop_at_the_first_layer_needed() -> None:
    model, batch = tiny_t5(), seq2seq_batch(3)
    plan = plan_collection(model, batch, tight(model, batch, GRAMS))
    partition = len(plan.partitions) - 1
    assert all(key.startswith("output_gram/") for key in plan.partitions[partition])
    needed = {key.removeprefix("output_gram/") for key in plan.partitions[partition]}
    with Collector(model, plan, partition) as collector, watching(model) as seen:
        collector.add(batch)
    assert "encoder.block.0.layer.0.SelfAttention.q" in seen.ran
    assert not any(name.startswith("encoder") for name in seen.in_graph), "the encoder has no part in these gradients"
    assert needed <= seen.in_graph


def test_one_pass_is_not_cut_and_begins_its_graph_at_the_first_layer() -> None:
    model, batch = tiny_t5(), seq2seq_batch(3)
    plan = plan_collection(model, batch, replace(GRAMS, parameters=("*block*",)))
    with Collector(model, plan) as collector, watching(model) as seen:
        collector.add(batch)
    assert {layer.name for layer in plan.layers} <= seen.ran
    assert "encoder.block.0.layer.0.layer_norm" not in seen.in_graph


class Repeating(nn.Module):
    """Calls a layer as often as the batch's first number says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.times = 1

    def forward(self, pixel_values: Tensor) -> Any:
        from types import SimpleNamespace

        states = pixel_values
        for _ in range(self.times):
            states = self.first(states).tanh()
        return SimpleNamespace(logits=self.second(states))


def test_a_layer_called_more_often_than_on_the_first_batch_is_told_not_lost() -> None:
    from mats.data.batch import Batch

    torch.manual_seed(0)
    batch = Batch(
        {"pixel_values": torch.randn(3, 4)},
        ("a", "b", "c"),
        "image_classification",
        None,
        None,
        torch.tensor([0, 1, 2]),
    )
    model = Repeating()
    plan = plan_collection(model, batch, tight(model, batch, GRAMS))
    assert len(plan.partitions) > 1
    model.times = 2
    with (
        Collector(model, plan, len(plan.partitions) - 1) as collector,
        pytest.raises(WorkFailed, match="first: call 2"),
    ):
        collector.add(batch)
    model.times = 1
    with Collector(model, plan, 0) as collector:
        collector.add(batch)
