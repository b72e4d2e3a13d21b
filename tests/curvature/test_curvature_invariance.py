"""The same sums whatever the batch size, the order, the padding and the partition, in float32 accumulators too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from curvature_comparison import largest_difference
from curvature_models import FAMILIES, language_batch, seq2seq_batch, tiny_gpt2, tiny_llama, tiny_t5

from mats.curvature import CollectionSettings, Collector, collect, plan_collection
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch
from mats.errors import OutOfSpace
from mats.store.records import Sums

TOLERANCE = 1e-5
EXAMPLES = 64
EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")


def in_batches(make_batch, size: int, count: int = EXAMPLES) -> list[Batch]:
    return [make_batch(min(size, count - first), first) for first in range(0, count, size)]


def collected(model: torch.nn.Module, batches: list[Batch], settings: CollectionSettings = EVERYTHING) -> Sums:
    return collect(model, batches, settings)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_changes_nothing(family: str, device: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model().to(device)
    count = 21 if family in ("t5_tied", "ia3_t5") else EXAMPLES  # as t5, which runs them all
    alone = collected(model, in_batches(make_batch, 1, count))
    for size in (7, count):
        together = collected(model, in_batches(make_batch, size, count))
        assert largest_difference(together, alone) < TOLERANCE
        assert together.example_ids == alone.example_ids
        assert together.tokens == alone.tokens


def test_float32_sums_agree_with_float64_sums(device: str) -> None:
    make_model, make_batch = FAMILIES["t5"]
    batches = in_batches(make_batch, 7, 21)
    precise = collected(make_model().to(device), batches)
    plain = collected(make_model().float().to(device), batches, replace(EVERYTHING, accumulate_dtype="float32"))
    assert all(t.dtype == torch.float32 for key, t in plain.tensors.items() if "embed" not in key)
    # Gradients pass four layers in float32.
    assert largest_difference(plain, precise) < 1e-4


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "vit"])
def test_order_changes_nothing(family: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    batches = in_batches(make_batch, 7, 21)
    forwards = collected(model, batches)
    backwards = collected(model, [batch.select(range(batch.size)[::-1]) for batch in reversed(batches)])
    assert largest_difference(backwards, forwards) < TOLERANCE


@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_left_padding_equals_right_padding(make_model, device: str) -> None:
    model = make_model().to(device)
    right = collected(model, [language_batch(9)])
    left = collected(model, [language_batch(9, left=True)])
    assert largest_difference(left, right) < TOLERANCE
    assert left.tokens == right.tokens


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
def test_more_padding_changes_nothing(family: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    batch = make_batch(7)
    assert largest_difference(collected(model, [more_padding(batch)]), collected(model, [batch])) < TOLERANCE


def more_padding(batch: Batch) -> Batch:
    """Two more columns on every tensor with positions."""
    inputs = {name: torch.nn.functional.pad(tensor, (0, 2)) for name, tensor in batch.inputs.items()}
    mask = torch.nn.functional.pad(batch.input_mask, (0, 2))
    target = None if batch.target_mask is None else torch.nn.functional.pad(batch.target_mask, (0, 2))
    labels = batch.labels if batch.labels.dim() == 1 else torch.nn.functional.pad(batch.labels, (0, 2), value=-100)
    return replace(batch, inputs=inputs, input_mask=mask, target_mask=target, labels=labels)


@pytest.mark.parametrize("labels", ["empirical", "exact"])
def test_partitions_change_nothing(labels: str) -> None:
    make_model, make_batch = FAMILIES["bert"]
    model = make_model()
    batches = in_batches(make_batch, 4, 8)
    settings = replace(EVERYTHING, labels=labels)
    plan, whole = collect(model, batches, settings)
    assert len(plan.partitions) == 1
    budget = max(item.bytes for item in plan.items) + 1000
    parts, split = collect(model, batches, replace(settings, memory_budget=budget))
    assert len(parts.partitions) > 3
    assert max(parts.partition_bytes) <= budget
    assert sum(parts.partition_bytes) == parts.bytes == plan.bytes
    assert largest_difference(split, whole) < 1e-12
    assert split.tokens == whole.tokens
    assert split.fourth_moments == pytest.approx(whole.fourth_moments)


def test_the_largest_sum_is_named_with_the_budget_that_would_do() -> None:
    with pytest.raises(
        OutOfSpace, match=r"(input_gram|output_gram|block|diagonal)/.* memory_budget is 100; "
    ) as caught:
        plan_collection(tiny_t5(), seq2seq_batch(3), replace(EVERYTHING, memory_budget=100))
    enough = int(str(caught.value).split("a budget of ")[1].split()[0])
    plan_collection(tiny_t5(), seq2seq_batch(3), replace(EVERYTHING, memory_budget=enough))
    with pytest.raises(OutOfSpace, match=f"memory_budget is {enough - 1}"):
        plan_collection(tiny_t5(), seq2seq_batch(3), replace(EVERYTHING, memory_budget=enough - 1))


def test_planned_bytes_are_what_the_sums_take() -> None:
    plan, sums = collect(tiny_t5(), [seq2seq_batch(3)], EVERYTHING)
    assert plan.bytes == sum(tensor.numel() * tensor.element_size() for tensor in sums.tensors.values())


def test_resuming_from_loaded_sums_gives_the_same_bytes() -> None:
    model = tiny_t5()
    batches = in_batches(seq2seq_batch, 4, 12)
    plan = plan_collection(model, batches[0], EVERYTHING)
    with Collector(model, plan) as collector:
        for batch in batches:
            collector.add(batch)
        whole = collector.sums()
    with Collector(model, plan) as first:
        first.add(batches[0])
        saved = first.partial()
        saved = replace(saved, tensors={key: tensor.clone() for key, tensor in saved.tensors.items()})
    with Collector(model, plan) as second:
        second.load(saved)
        for batch in batches[1:]:
            second.add(batch)
        resumed = second.sums()
    assert any(key.startswith("waiting/") for key in saved.tensors), "a few rows wait at the checkpoint"
    assert resumed.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(resumed.tensors[key], tensor) for key, tensor in whole.tensors.items())
    assert (resumed.tokens, resumed.fourth_moments) == (whole.tokens, whole.fourth_moments)
    assert resumed.example_ids == whole.example_ids
