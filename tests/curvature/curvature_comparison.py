"""Compare what collection gave with the oracle, statistic by statistic."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from curvature_oracle import Oracle, relative_error
from torch import Tensor

from mats.curvature import CollectionPlan
from mats.store.records import Sums


def errors(plan: CollectionPlan, sums: Sums, truth: Oracle) -> dict[str, float]:
    """The largest normwise relative error of each statistic, over everything the oracle knows."""
    found: dict[str, float] = defaultdict(float)
    inputs, outputs, rows = by_weight(plan, sums)
    sites = {site.name: site for site in plan.sites}
    assert set(inputs) == set(outputs), "layers with one Gram only"
    for key, gram in inputs.items():
        expected = truth.inputs[key].diagonal() if key[1] == "embedding" else truth.inputs[key]
        homogeneous = any(sites[x.site].homogeneous for x in plan.layers if (x.weight, x.kind) == key)
        if homogeneous:
            column = truth.input_sums[key]
            corner = torch.tensor([[float(truth.rows[key])]], dtype=torch.float64)
            expected = torch.cat([torch.cat([expected, column[:, None]], 1), torch.cat([column[None], corner], 1)])
        note(found, "input_gram", gram, expected)
        assert abs(rows[key] - truth.rows[key]) < 1e-9 * truth.rows[key], key
    for key, gram in outputs.items():
        note(found, "output_gram", gram, truth.outputs[key])
    for name in plan.parameters:
        if f"diagonal/{name}" in sums.tensors:
            note(found, "diagonal", sums.tensors[f"diagonal/{name}"], truth.diagonal[name])
        if f"block/{name}" in sums.tensors:
            note(found, "block", sums.tensors[f"block/{name}"], truth.block[name])
    return dict(found)


def by_weight(plan: CollectionPlan, sums: Sums) -> tuple[dict[Any, Tensor], dict[Any, Tensor], dict[Any, float]]:
    """Grams and rows added over the layers that hold one weight in one kind of module."""
    inputs: dict[Any, Tensor] = {}
    outputs: dict[Any, Tensor] = {}
    rows: dict[Any, float] = defaultdict(float)
    for layer in plan.layers:
        key = (layer.weight, layer.kind)
        gram = sums.tensors[f"input_gram/{layer.site}"]
        output = sums.tensors[f"output_gram/{layer.name}"]
        inputs[key] = inputs[key] + gram if key in inputs else gram
        outputs[key] = outputs[key] + output if key in outputs else output
        rows[key] += sums.tokens[f"layer:{layer.name}"]
        assert sums.tokens[f"site:{layer.site}"] == sums.tokens[f"layer:{layer.name}"]
    return inputs, outputs, rows


def note(found: dict[str, float], statistic: str, value: Tensor, expected: Tensor) -> None:
    if expected.norm() < 1e-14 and value.norm() < 1e-14:
        return  # a key bias has no gradient but rounding
    found[statistic] = max(found[statistic], relative_error(value.to(expected), expected))


def largest_difference(first: Sums, second: Sums) -> float:
    """The largest normwise relative difference over all tensors of two sums."""
    assert first.tensors.keys() == second.tensors.keys()
    scale = {key: tensor.norm() for key, tensor in second.tensors.items()}
    return max(
        float((tensor.double() - second.tensors[key].double()).norm() / scale[key])
        for key, tensor in first.tensors.items()
        if scale[key] > 1e-13
    )
