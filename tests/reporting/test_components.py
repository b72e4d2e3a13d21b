"""Weights of the usual architectures, told apart and put into the order of a forward pass."""

from __future__ import annotations

import random

import pytest
from reports import merge_report

from mats.reporting.components import block_of, part_of, place_of
from mats.reporting.sweep_heatmap import plot_layer_map
from mats.reporting.sweep_results import PointResult, SweepResults


@pytest.mark.parametrize(
    ("name", "part", "block"),
    [
        ("bert.encoder.layer.3.attention.self.query.weight", "q", "enc 3"),
        ("bert.encoder.layer.3.attention.output.dense.weight", "o", "enc 3"),
        ("bert.encoder.layer.3.intermediate.dense.weight", "ffn in", "enc 3"),
        ("bert.encoder.layer.3.output.dense.weight", "ffn out", "enc 3"),
        ("bert.encoder.layer.3.output.LayerNorm.weight", "other", "enc 3"),
        ("decoder.block.11.layer.1.EncDecAttention.k.weight", "k", "dec 11"),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "ffn in", "enc 0"),
        ("encoder.block.0.layer.1.DenseReluDense.wo.weight", "ffn out", "enc 0"),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", "o", "enc 0"),
        ("model.layers.31.self_attn.v_proj.weight", "v", "31"),
        ("model.layers.31.mlp.gate_proj.weight", "ffn in", "31"),
        ("model.layers.31.mlp.down_proj.weight", "ffn out", "31"),
        ("transformer.h.2.attn.c_attn.weight", "q", "2"),
        ("transformer.h.2.attn.c_proj.weight", "o", "2"),
        ("transformer.h.2.mlp.c_proj.weight", "ffn out", "2"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", "q", "0"),
        ("gpt_neox.layers.0.attention.dense.weight", "o", "0"),
        ("lm_head.weight", "other", None),
        ("layer", "other", None),
    ],
)
def test_parts_and_blocks(name: str, part: str, block: str | None) -> None:
    assert part_of(name) == part
    assert block_of(name) == block


@pytest.mark.parametrize(
    "names",
    [
        [
            "bert.embeddings.word_embeddings.weight",
            "bert.encoder.layer.2.attention.self.query.weight",
            "bert.encoder.layer.2.attention.self.key.weight",
            "bert.encoder.layer.2.attention.self.value.weight",
            "bert.encoder.layer.2.attention.output.dense.weight",
            "bert.encoder.layer.2.intermediate.dense.weight",
            "bert.encoder.layer.2.output.dense.weight",
            "bert.encoder.layer.10.attention.self.query.weight",
            "bert.pooler.dense.weight",
            "classifier.weight",
        ],
        [
            "shared.weight",
            "encoder.block.9.layer.0.SelfAttention.q.weight",
            "encoder.block.11.layer.0.SelfAttention.q.weight",
            "decoder.block.0.layer.0.SelfAttention.q.weight",
            "decoder.block.0.layer.0.SelfAttention.o.weight",
            "decoder.block.0.layer.1.EncDecAttention.q.weight",
            "decoder.block.0.layer.2.DenseReluDense.wi.weight",
            "lm_head.weight",
        ],
    ],
)
def test_the_order_is_that_of_a_forward_pass(names: list[str]) -> None:
    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)
    assert shuffled != names
    assert sorted(shuffled, key=place_of) == names


def test_a_comparison_of_merges_maps_what_is_left() -> None:
    surer = merge_report()
    surer["layers"][0]["remaining_share"] = 1e-6
    pairs = ((1, merge_report()), (2, surer))
    points = tuple(PointResult(number, f"d{number}", {"scale": number}, report=report) for number, report in pairs)
    figure = plot_layer_map(SweepResults("Sweep", ("scale",), points, "validation", "mean"), "remaining_share")
    assert figure is not None
    grid = figure.axes[0].images[0].get_array()
    assert grid[0].tolist() == pytest.approx([-4.0, -6.0])
