"""What is measured where: sites, sides, records, names, patterns, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from curvature_models import (
    FAMILIES,
    classification_batch,
    language_batch,
    seq2seq_batch,
    tiny_bert,
    tiny_gpt2,
    tiny_ia3_t5,
    tiny_t5,
)

from mats.curvature import CollectionSettings, collect, plan_collection
from mats.curvature.plan import Item, partitions
from mats.curvature.settings import STATISTICS
from mats.curvature.sites import tensor_identity
from mats.errors import ShapeMismatch
from mats.store.records import LayerRecord, SiteRecord

GRAMS = CollectionSettings()


def assert_sides_are_right(sides: Mapping[str, tuple[str, ...]]) -> None:
    """T5's encoder, and what reads its output, take the input mask; tables over pairs of positions have no side."""
    for name, found in sides.items():
        crossing = name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
        if "relative_attention_bias" not in name:
            assert found == (("input",) if name.startswith("encoder") or crossing else ("target",)), name


def test_a_t5_block_shares_what_it_reads() -> None:
    plan = plan_collection(tiny_t5(), seq2seq_batch(4), GRAMS)
    members: dict[str, list[str]] = {}
    for layer in plan.layers:
        members.setdefault(layer.site, []).append(layer.name)
    block = "decoder.block.0.layer"
    assert members[f"{block}.0.SelfAttention.q"] == [f"{block}.0.SelfAttention.{x}" for x in "qkv"]
    assert members[f"{block}.2.DenseReluDense.wi_0"] == [f"{block}.2.DenseReluDense.wi_{n}" for n in (0, 1)]
    cross = [f"decoder.block.{n}.layer.1.EncDecAttention.{x}" for n in (0, 1) for x in "kv"]
    assert members[cross[0]] == cross, "the encoder's output is one site"
    # Four sites an encoder block, six a decoder block, one of the encoder's output, lm_head, two embeddings.
    assert len(plan.sites) == 2 * 4 + 2 * 6 + 1 + 1 + 2


def test_sides_follow_the_data_not_the_names() -> None:
    assert_sides_are_right(plan_collection(tiny_t5(), seq2seq_batch(4), GRAMS).sides)


@pytest.mark.parametrize(("width", "count"), [(8, 6), (3, 3), (4, 4), (5, 5)])
def test_sides_are_told_apart_when_lengths_agree(width: int, count: int) -> None:
    """Input and target of one length, and as many examples as that: nothing can be told from shapes."""
    ids = torch.randint(1, 23, (count, width))
    mask = torch.ones(count, width, dtype=torch.bool)
    batch = seq2seq_batch(count)
    decoder_ids = torch.randint(1, 23, (count, width))
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": decoder_ids}
    square = replace(batch, inputs=inputs, input_mask=mask, target_mask=mask, labels=ids)
    assert_sides_are_right(plan_collection(tiny_t5(), square, GRAMS).sides)


def test_records_say_how_weights_lie() -> None:
    plan = plan_collection(tiny_gpt2(), language_batch(4), GRAMS)
    layers = {layer.name: layer for layer in plan.layers}
    sites = {site.name: site for site in plan.sites}
    attention = "transformer.h.0.attn.c_attn"
    assert layers[attention] == LayerRecord(
        attention, "conv1d", f"{attention}.weight", f"{attention}.bias", attention, "in_out", 36
    )
    assert sites[attention] == SiteRecord(attention, "gram", 13, homogeneous=True)
    assert layers["transformer.wte"].layout == "in_out"
    assert sites["transformer.wte"] == SiteRecord("transformer.wte", "counts", 23, homogeneous=False)
    # Tied: two layers, one weight.
    assert layers["lm_head"].weight == layers["transformer.wte"].weight == "transformer.wte.weight"
    assert layers["lm_head"].bias is None
    assert not sites["lm_head"].homogeneous


def test_without_the_homogeneous_coordinate_biases_are_uncovered() -> None:
    plan = plan_collection(tiny_bert(), classification_batch(4), replace(GRAMS, homogeneous=False))
    assert not any(site.homogeneous for site in plan.sites)
    assert "without the homogeneous coordinate" in plan.uncovered["classifier.bias"]
    covered = plan_collection(tiny_bert(), classification_batch(4), GRAMS)
    assert "classifier.bias" not in covered.uncovered


def test_uncovered_parameters_have_reasons() -> None:
    plan = plan_collection(tiny_bert(), classification_batch(4), GRAMS)
    assert plan.uncovered["bert.embeddings.LayerNorm.weight"] == (
        "held by LayerNorm: no Gram rule; `diagonal` or `block` covers it"
    )
    assert "ids are not the batch's" in plan.uncovered["bert.embeddings.position_embeddings.weight"]
    blocks = plan_collection(tiny_bert(), classification_batch(4), CollectionSettings(statistics=("block",)))
    assert blocks.uncovered["classifier.weight"] == "a matrix: `block` is for vectors only"
    assert "classifier.bias" not in blocks.uncovered


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_covered_or_named(family: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    plan = plan_collection(model, make_batch(3), GRAMS)
    biases = {layer.bias for layer in plan.layers}
    covered = {layer.weight for layer in plan.layers} | biases
    assert {name for name, _ in model.named_parameters()} == (covered - {None}) | set(plan.uncovered)


def test_patterns_choose_parameters() -> None:
    settings = CollectionSettings(statistics=("diagonal", "input_gram"), parameters=("*.k.weight", "lm_head.*"))
    plan = plan_collection(tiny_t5(), seq2seq_batch(4), settings)
    assert {layer.weight for layer in plan.layers} == set(plan.parameters)
    assert all(name.endswith((".k.weight", "lm_head.weight")) for name in plan.parameters)
    assert plan.uncovered == {}


def test_checkpoint_names_replace_the_models() -> None:
    model = tiny_bert()
    names = {name: f"renamed.{name}" for name, _ in model.named_parameters() if "classifier" not in name}
    settings = CollectionSettings(statistics=("diagonal", "input_gram", "output_gram"))
    plan, sums = collect(model, [classification_batch(4)], settings, names)
    assert all(layer.weight.startswith("renamed.bert") for layer in plan.layers)
    assert all(name.startswith("renamed.bert") for name in plan.parameters)
    assert "input_gram/classifier" not in sums.tensors
    assert plan.notes["not in the checkpoint"].startswith(
        "2 parameters, not measured: classifier.weight, classifier.bias"
    )


def test_adapter_names_measure_adapters_alone() -> None:
    model = tiny_ia3_t5()
    names = {name: name.replace(".default", "") for name, _ in model.named_parameters() if "ia3_l" in name}
    settings = CollectionSettings(statistics=("diagonal", "block"))
    plan, sums = collect(model, [seq2seq_batch(4)], settings, names)
    assert set(plan.parameters) == set(names.values()) == plan.tapped
    assert plan.uncovered == {}
    name = "base_model.model.encoder.block.0.layer.1.DenseReluDense.wi_1.ia3_l"
    assert sums.tensors[f"diagonal/{name}"].shape == (1, 12)
    assert sums.tensors[f"block/{name}"].shape == (12, 12)


def test_limits_leave_out_what_is_large_with_a_note() -> None:
    settings = CollectionSettings(
        statistics=("input_gram", "output_gram", "block"), output_gram_limit=20, block_limit=14
    )
    plan, sums = collect(tiny_bert(), [classification_batch(4)], settings)
    assert plan.notes == {
        "bert.encoder.layer.0.intermediate.dense.bias": "no block: 16 numbers, above block_limit = 14"
    } | {"bert.encoder.layer.1.intermediate.dense.bias": "no block: 16 numbers, above block_limit = 14"}
    plan, sums = collect(tiny_t5(), [seq2seq_batch(4)], settings)
    assert plan.notes["lm_head"] == "no output_gram: 23 outputs, above output_gram_limit = 20"
    assert "input_gram/lm_head" in sums.tensors
    assert "output_gram/lm_head" not in sums.tensors


def test_partitions_fill_up_in_order() -> None:
    items = [Item(name, size) for name, size in (("a", 4), ("b", 3), ("c", 5), ("d", 1))]
    assert partitions(items, None) == (("a", "b", "c", "d"),)
    assert partitions(items, 7) == (("a", "b"), ("c", "d"))
    assert partitions(items, 5) == (("a",), ("b",), ("c",), ("d",))
    assert partitions([], 5) == ((),)


def test_adapters_alone_need_no_lengths_that_differ() -> None:
    """Only adapters are trainable here, so no weight gives the graph that tells encoder from decoder."""
    model = tiny_ia3_t5()
    batch = seq2seq_batch(4)
    ids = batch.inputs["decoder_input_ids"]
    mask = torch.ones_like(ids, dtype=torch.bool)
    inputs = dict(batch.inputs, input_ids=ids.clamp(max=20) + 1, attention_mask=mask.long())
    square = replace(batch, inputs=inputs, input_mask=mask)
    adapters = CollectionSettings(statistics=("diagonal", "block"), parameters=("*ia3_l*",))
    assert len(plan_collection(model, square, adapters).parameters) == 16
    crossing = "*decoder.block.1.layer.1.EncDecAttention.*.weight"
    plan = plan_collection(model, square, replace(GRAMS, parameters=(crossing,)))
    assert {layer.name.rpartition("EncDecAttention.")[2]: plan.sides[layer.name] for layer in plan.layers} == {
        "q": ("target",),
        "k.base_layer": ("input",),
        "v.base_layer": ("input",),
        "o": ("target",),
    }


def test_masks_of_layers_that_are_not_measured_do_not_matter() -> None:
    batch = replace(seq2seq_batch(4), input_mask=torch.ones(4, 99, dtype=torch.bool))
    plan_collection(tiny_t5(), batch, replace(GRAMS, parameters=("lm_head.weight",)))
    plan_collection(tiny_t5(), batch, CollectionSettings(statistics=("diagonal",)))
    with pytest.raises(ShapeMismatch, match="mask has 99 tokens, activations 8"):
        plan_collection(tiny_t5(), batch, GRAMS)


def test_a_tensor_changed_in_place_is_no_longer_the_same_input() -> None:
    values = torch.zeros(4, 3)
    before = tensor_identity(values)
    assert tensor_identity(values.detach()) == before
    assert tensor_identity(values.T) != before
    assert tensor_identity(values.clone()) != before
    values.add_(1)
    assert tensor_identity(values) != before


def test_blocks_and_diagonals_have_patterns_of_their_own() -> None:
    settings = CollectionSettings(
        STATISTICS, block_parameters=("*LayerNorm*",), diagonal_parameters=("*position_embeddings*",)
    )
    plan = plan_collection(tiny_bert(), classification_batch(4), settings)
    blocks = [item.key for item in plan.items if item.key.startswith("block/")]
    assert len(blocks) == 10
    assert all("LayerNorm" in key for key in blocks)
    diagonals = [item.key for item in plan.items if item.key.startswith("diagonal/")]
    assert diagonals == ["diagonal/bert.embeddings.position_embeddings.weight"]
    assert {layer.kind for layer in plan.layers} == {"linear", "embedding"}
    assert plan.uncovered == {}
    narrowed = replace(settings, parameters=("*encoder*",))
    kept = plan_collection(tiny_bert(), classification_batch(4), narrowed).parameters
    assert len(kept) == 8
