"""Merged weights of each closed form, and of converged CG, against dense float64 solves; end to end through files."""

from __future__ import annotations

from pathlib import Path

import dense_oracle
import numpy as np
import pytest
from tiny_models import Family

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, merge
from mats.methods import (
    AverageSettings,
    MatsSettings,
    SolverChoice,
)

WEIGHTS = (1.0, 2.5, 0.5)
EXACT = SolverChoice(name="auto", tolerance=1e-7, max_iterations=2000, precision="float64")


def run(family: Family, output: Path, method, **options):
    weights = WEIGHTS[: len(family.models)]
    request = MergeRequest(
        base=str(family.base),
        models=family.inputs(weights=weights),
        method=method,
        output=output,
        device="cpu",
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
            curvatures.append(dense_oracle.regmean(inputs, len(targets[0]), raw.examples))
            continue
        outputs = raw.sums.tensors[f"output_gram/{layer}"].numpy()
        tokens = 1.0 if ignore_tokens else raw.sums.tokens[f"layer:{layer}"]
        examples = 1.0 if ignore_tokens else raw.examples
        if swap:
            inputs, outputs = outputs, inputs
        curvatures.append(dense_oracle.kfac(inputs, outputs, examples, tokens))
    return dense_oracle.anchored(curvatures, targets, start(base, targets, weights), weights, anchor)


def from_task_arithmetic(base, targets, weights):
    return dense_oracle.task_arithmetic(base, targets, 0.3, weights)


def from_average(base, targets, weights):
    return dense_oracle.average(targets, weights)


def test_average_is_the_weighted_mean(bert: Family, tmp_path: Path) -> None:
    merged, report = run(bert, tmp_path / "out", AverageSettings())
    for name, tensor in merged.items():
        expected = dense_oracle.average([state[name].double().numpy() for state in bert.states], WEIGHTS)
        assert difference(tensor.numpy(), expected) < 1e-6
    assert report["parameters"]["by_rule"] == {"average": report["parameters"]["total"]}


@pytest.mark.parametrize(
    "layer",
    ["bert.encoder.layer.0.attention.self.key", "bert.encoder.layer.1.output.dense", "bert.pooler.dense", "classifier"],
)
def test_kfac_layers_equal_the_dense_solve(bert: Family, tmp_path: Path, layer: str) -> None:
    merged, report = run(bert, tmp_path / "out", MatsSettings(solver=EXACT))
    record = bert.raw[0].layers[layer]
    found = joined(merged, record.weight, record.bias)
    assert difference(found, expected_layer(bert, layer, 0.1, from_task_arithmetic)) < 1e-5
    for wrong in ({"ignore_tokens": True}, {"rule": "input_gram"}):
        assert difference(found, expected_layer(bert, layer, 0.1, from_task_arithmetic, **wrong)) > 1e-3
    assert entry(report, record.weight)["rule"] == "kfac"
    assert entry(report, record.weight)["converged"] is True
