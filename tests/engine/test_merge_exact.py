"""Merged weights of each closed form, and of converged CG, against dense float64 solves; end to end through files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_oracle
import numpy as np
import pytest
import torch
from engine_families import Family
from safetensors.torch import load_file, save_file

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, Rule, merge
from mats.methods import (
    AverageSettings,
    FisherSettings,
    MatsSettings,
    RegMeanSettings,
    SolverChoice,
    TaskArithmeticSettings,
)

pytestmark = pytest.mark.usefixtures("light_report")
WEIGHTS = (1.0, 2.5, 0.5)
# The oracle's system: a pull that is the same in all directions. Factored damping has its own in tests/test_solving.py.
ANCHORED: dict[str, Any] = {"init": TaskArithmeticSettings(scale=0.3), "anchor": 0.1, "damping": 0.0}
ANCHORED |= {
    "scaling": "examples"
}  # with λ_i alone; what `balanced` multiplies them by has its own, in test_balance.py
EXACT = SolverChoice(name="auto", tolerance=1e-7, max_iterations=2000, precision="float64")


def run(family: Family, output: Path, method, device="cpu", **options):
    weights = WEIGHTS[: len(family.models)]
    request = MergeRequest(
        base=str(family.base),
        models=family.inputs(weights=weights),
        method=method,
        output=output,
        device=device,
        **options,
    )
    result = merge(request)
    with open_checkpoint(result.path) as merged:
        return {name: merged.read(name) for name in merged.tensors}, result.report


def entry(report, name):
    return next(layer for layer in report["layers"] if layer["name"] == name)


def joined(state, weight, bias, transposed=False):
    matrix = state[weight].double().numpy()
    matrix = matrix.T if transposed else matrix.reshape(len(matrix), -1)
    return matrix if bias is None else np.concatenate([matrix, state[bias].double().numpy()[:, None]], axis=1)


def difference(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def expected_layer(
    family: Family, layer: str, anchor: float, start, rule: str = "kfac", swap=False, ignore_tokens=False
):
    """The oracle's answer for one layer, bias as last column."""
    record = family.raw[0].layers[layer]
    weights = WEIGHTS[: len(family.models)]
    transposed = record.layout == "in_out"
    targets = [joined(state, record.weight, record.bias, transposed) for state in family.states]
    base = joined(family.base_state, record.weight, record.bias, transposed)
    curvatures = []
    for raw in family.raw:
        inputs = raw.sums.tensors[f"input_gram/{record.site}"].numpy()
        if inputs.ndim == 1:
            inputs = np.diag(inputs)
        if record.bias is None and len(inputs) == targets[0].shape[1] + 1:
            inputs = inputs[:-1, :-1]
        if rule == "input_gram":
            curvatures.append(engine_oracle.regmean(inputs, len(targets[0]), raw.examples))
            continue
        outputs = raw.sums.tensors[f"output_gram/{layer}"].numpy()
        tokens = 1.0 if ignore_tokens else raw.sums.tokens[f"layer:{layer}"]
        examples = 1.0 if ignore_tokens else raw.examples
        if swap:
            inputs, outputs = outputs, inputs
        curvatures.append(engine_oracle.kfac(inputs, outputs, examples, tokens))
    return engine_oracle.anchored(curvatures, targets, start(base, targets, weights), weights, anchor)


def from_task_arithmetic(base, targets, weights):
    return engine_oracle.task_arithmetic(base, targets, 0.3, weights)


def from_average(base, targets, weights):
    return engine_oracle.average(targets, weights)


def test_average_is_the_weighted_mean(bert: Family, tmp_path: Path) -> None:
    merged, report = run(bert, tmp_path / "out", AverageSettings())
    for name, tensor in merged.items():
        expected = engine_oracle.average([state[name].double().numpy() for state in bert.states], WEIGHTS)
        assert difference(tensor.numpy(), expected) < 1e-6
    assert report["parameters"]["by_rule"] == {"average": report["parameters"]["total"]}


@pytest.mark.parametrize(
    "layer",
    ["bert.encoder.layer.0.attention.self.key", "bert.encoder.layer.1.output.dense", "bert.pooler.dense", "classifier"],
)
def test_kfac_layers_equal_the_dense_solve(bert: Family, tmp_path: Path, layer: str, device: str) -> None:
    merged, report = run(bert, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT), device)
    record = bert.raw[0].layers[layer]
    found = joined(merged, record.weight, record.bias)
    assert difference(found, expected_layer(bert, layer, 0.1, from_task_arithmetic)) < 1e-5
    for wrong in ({"ignore_tokens": True}, {"rule": "input_gram"}):
        assert difference(found, expected_layer(bert, layer, 0.1, from_task_arithmetic, **wrong)) > 1e-3
    assert entry(report, record.weight)["rule"] == "kfac"
    assert entry(report, record.weight)["converged"] is True


def test_regmean_equals_the_dense_solve(bert: Family, tmp_path: Path, device: str) -> None:
    layer = "bert.encoder.layer.1.attention.self.value"
    merged, report = run(bert, tmp_path / "out", RegMeanSettings(anchor=0.01), device)
    record = bert.raw[0].layers[layer]
    found = joined(merged, record.weight, record.bias)
    assert difference(found, expected_layer(bert, layer, 0.01, from_average, rule="input_gram")) < 1e-5
    assert difference(found, expected_layer(bert, layer, 0.01, from_average)) > 1e-3
    assert entry(report, record.weight)["stop_reason"] == "closed_form"
    assert report["parameters"]["by_rule"]["init"] > 0  # norms
    assert "no layer measured" in entry(report, "bert.embeddings.LayerNorm.weight")["fallback_reason"]


def test_a_dropped_bias_column_would_show(bert: Family, tmp_path: Path) -> None:
    """Without folding, the weight is solved on the leading block, and the bias by itself: another answer."""
    layer = "bert.encoder.layer.0.attention.output.dense"
    merged, _ = run(bert, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT, fold_bias=False))
    record = bert.raw[0].layers[layer]
    without_bias = [
        type(raw)(raw.examples, raw.sums, raw.sites, {layer: type(record)(**{**record.__dict__, "bias": None})})
        for raw in bert.raw
    ]
    family = Family(bert.base, bert.models, bert.stores, without_bias, bert.states, bert.base_state)
    found = joined(merged, record.weight, None)
    assert difference(found, expected_layer(family, layer, 0.1, from_task_arithmetic)) < 1e-5
    with_bias = joined(merged, record.weight, record.bias)
    assert (
        difference(with_bias, expected_layer(bert, layer, 0.1, from_task_arithmetic)) > 1e-3
    )  # the bias column counts


def test_swapped_factors_would_show(bert: Family, tmp_path: Path) -> None:
    """On a square layer only the numbers tell A and G apart; the bias is not folded, to make it square."""
    layer = "bert.encoder.layer.0.attention.output.dense"
    record = bert.raw[0].layers[layer]
    unbiased = type(record)(**{**record.__dict__, "bias": None})
    raws = [type(raw)(raw.examples, raw.sums, raw.sites, {layer: unbiased}) for raw in bert.raw]
    for raw in raws:
        assert raw.sums.tensors[f"output_gram/{layer}"].shape[0] == 16
    family = Family(bert.base, bert.models, bert.stores, raws, bert.states, bert.base_state)
    right = expected_layer(family, layer, 0.1, from_task_arithmetic)
    for raw in raws:  # the swap needs square factors of one size
        raw.sums = type(raw.sums)(dict(raw.sums.tensors), raw.sums.tokens)
        raw.sums.tensors[f"input_gram/{record.site}"] = raw.sums.tensors[f"input_gram/{record.site}"][:16, :16]
    merged, _ = run(bert, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT, fold_bias=False))
    found = joined(merged, record.weight, None)
    assert difference(found, right) < 1e-5
    assert difference(found, expected_layer(family, layer, 0.1, from_task_arithmetic, swap=True)) > 1e-3


@pytest.mark.parametrize("layer", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"])
def test_transposed_weights(gpt2: Family, tmp_path: Path, layer: str) -> None:
    merged, _ = run(gpt2, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT))
    record = gpt2.raw[0].layers[layer]
    found = joined(merged, record.weight, record.bias, transposed=True)
    assert difference(found, expected_layer(gpt2, layer, 0.1, from_task_arithmetic)) < 1e-5


def test_a_tied_matrix_carries_both_terms(gpt2: Family, tmp_path: Path) -> None:
    """wte and lm_head are one tensor: token counts and the head's inputs act on different sides of it."""
    merged, report = run(gpt2, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT))
    assert "lm_head.weight" not in merged
    curvatures, heads = [], []
    for raw in gpt2.raw:
        counts = raw.sums.tensors["input_gram/transformer.wte"].numpy()
        inputs = raw.sums.tensors["input_gram/lm_head"].numpy()
        embedding = np.kron(np.diag(counts), raw.sums.tensors["output_gram/transformer.wte"].numpy())
        head = np.kron(raw.sums.tensors["output_gram/lm_head"].numpy(), inputs)
        tokens = {name: raw.sums.tokens[f"layer:{name}"] for name in ("transformer.wte", "lm_head")}
        heads.append(head / (raw.examples * tokens["lm_head"]))
        curvatures.append(embedding / (raw.examples * tokens["transformer.wte"]) + heads[-1])
    name = "transformer.wte.weight"
    targets = [state[name].double().numpy() for state in gpt2.states]
    start = from_task_arithmetic(gpt2.base_state[name].double().numpy(), targets, WEIGHTS[:2])
    expected = engine_oracle.anchored(curvatures, targets, start, WEIGHTS[:2], 0.1)
    assert difference(merged[name].numpy(), expected) < 1e-5
    dropped = engine_oracle.anchored(heads, targets, start, WEIGHTS[:2], 0.1)
    assert difference(merged[name].numpy(), dropped) > 1e-3
    assert entry(report, name)["rule"] == "kfac"


def test_a_base_that_stores_a_tied_tensor_twice(gpt2: Family, tmp_path: Path) -> None:
    """The output stores it twice as well, equal, and solved with both terms, as when it is stored once."""
    once, _ = run(gpt2, tmp_path / "once", MatsSettings(**ANCHORED))
    shutil.copytree(gpt2.base, tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    save_file(state, tmp_path / "base" / "model.safetensors")
    twice, report = run(replace(gpt2, base=tmp_path / "base"), tmp_path / "twice", MatsSettings(**ANCHORED))
    assert torch.equal(twice["lm_head.weight"], twice["transformer.wte.weight"])
    torch.testing.assert_close(twice["transformer.wte.weight"], once["transformer.wte.weight"])
    assert report["tied"] == [["lm_head.weight", "transformer.wte.weight"]]
    assert report["parameters"]["total"] == sum(tensor.numel() for tensor in once.values())


def test_convolution(vit: Family, tmp_path: Path) -> None:
    layer = next(name for name, record in vit.raw[0].layers.items() if record.layout == "conv")
    merged, _ = run(vit, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT))
    record = vit.raw[0].layers[layer]
    found = joined(merged, record.weight, record.bias)
    assert difference(found, expected_layer(vit, layer, 0.1, from_task_arithmetic)) < 1e-5


def test_embedding_by_counts_and_head_without_output_gram(t5: Family, tmp_path: Path) -> None:
    """The embedding's rows are weighted by counts; lm_head, whose G is too large, falls to its input Gram."""
    merged, report = run(t5, tmp_path / "out", MatsSettings(**ANCHORED, solver=EXACT))
    record = t5.raw[0].layers["shared"]
    found = joined(merged, record.weight, None, transposed=True)
    assert difference(found, expected_layer(t5, "shared", 0.1, from_task_arithmetic)) < 1e-5
    head = joined(merged, "lm_head.weight", None)
    assert difference(head, expected_layer(t5, "lm_head", 0.1, from_task_arithmetic, rule="input_gram")) < 1e-5
    assert entry(report, "lm_head.weight")["rule"] == "input_gram"
    assert "no output_gram of layer lm_head" in entry(report, "lm_head.weight")["fallback_reason"]


def test_vectors_by_block_and_by_diagonal(bert: Family, tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    weights = WEIGHTS
    targets = [state[name].double().numpy()[None] for state in bert.states]
    base = bert.base_state[name].double().numpy()[None]
    blocks = [raw.sums.tensors[f"block/{name}"].numpy() / raw.examples for raw in bert.raw]
    merged, report = run(bert, tmp_path / "block", MatsSettings(**ANCHORED, solver=EXACT))
    expected = engine_oracle.anchored(blocks, targets, from_task_arithmetic(base, targets, weights), weights, 0.1)
    assert difference(merged[name].numpy()[None], expected) < 1e-5
    assert entry(report, name)["rule"] == "block"
    merged, report = run(bert, tmp_path / "diagonal", FisherSettings(anchor=0.01))
    diagonals = [np.diag(np.diag(block)) for block in blocks]
    expected = engine_oracle.anchored(diagonals, targets, engine_oracle.average(targets, weights), weights, 0.01)
    assert difference(merged[name].numpy()[None], expected) < 1e-5
    assert entry(report, name)["rule"] == "diagonal"


@pytest.mark.parametrize("rule", ["average", "fisher", "regmean"])
def test_cg_gives_what_the_closed_form_gives(bert: Family, tmp_path: Path, rule: str) -> None:
    cg = SolverChoice(name="cg", tolerance=1e-9, max_iterations=3000, precision="float64")
    if rule == "average":
        direct, by_cg = AverageSettings(), MatsSettings(fallback=("identity",), anchor=0.0, damping=0.0, solver=cg)
    elif rule == "fisher":
        direct, by_cg = FisherSettings(anchor=0.01), FisherSettings(anchor=0.01, solver=cg)
    else:
        direct, by_cg = RegMeanSettings(anchor=0.01), RegMeanSettings(anchor=0.01, solver=cg)
    first, _ = run(bert, tmp_path / "direct", direct)
    second, report = run(bert, tmp_path / "cg", by_cg)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=2e-5, atol=2e-6)
    assert any((layer.get("iterations") or 0) > 0 for layer in report["layers"])


def test_rules_come_first(bert: Family, tmp_path: Path) -> None:
    rules = (Rule("classifier.*", AverageSettings()), Rule("*", TaskArithmeticSettings(scale=0.5)))
    merged, report = run(bert, tmp_path / "out", MatsSettings(**ANCHORED), rules=rules)
    assert set(report["parameters"]["by_rule"]) == {"average", "task_arithmetic"}
    expected = engine_oracle.average([s["classifier.weight"].double().numpy() for s in bert.states], WEIGHTS)
    assert difference(merged["classifier.weight"].numpy(), expected) < 1e-6
