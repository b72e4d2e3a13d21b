"""Weights of checkpoints and stores solved alone are what the merge writes; nothing asked for is missing in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_families import Family
from safetensors.torch import load_file

import mats
from mats.engine import MergeRequest, merge
from mats.errors import FingerprintMismatch, RequestError
from mats.methods import MatsSettings

pytestmark = pytest.mark.usefixtures("light_report")


def request_of(family: Family, output: Path) -> MergeRequest:
    inputs = family.inputs(weights=(1.0, 2.5, 0.5))
    return MergeRequest(base=str(family.base), models=inputs, method=MatsSettings(), output=output)


def test_chosen_weights_are_those_of_the_merge(bert: Family, tmp_path: Path) -> None:
    request = request_of(bert, tmp_path / "merged")
    written = merge(request)
    merged = load_file(written.path / "model.safetensors")
    problem = mats.MergeProblem.from_stores(request, "bert.encoder.layer.*.dense.weight")
    assert len(problem.names) == 2 * 3
    assert len(problem.groups) == 3  # by shape
    result = mats.solve(problem)
    assert set(problem.names) < set(result.values)  # their biases too
    for name, tensor in result.values.items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-4, atol=1e-6)
    entries = {layer["name"]: layer for layer in written.report["layers"]}
    for name, certificate in zip(result.names, result.certificates, strict=True):
        assert entries[name]["loss_before"]["task1"] == pytest.approx(certificate.loss_before[1], rel=1e-6)
        assert entries[name]["bound"] == certificate.bound.value == "proven"
        assert entries[name]["remaining_share"] < 1e-4
    with pytest.raises(RequestError, match=r"made of stores; take values\['bert"):
        _ = result.value


def test_checkpoints_and_stores_say_the_same_as_a_request(bert: Family) -> None:
    names = ["first", "second", "third"]
    problem = mats.MergeProblem.from_stores(
        dict(zip(names, bert.models, strict=True)),
        "bert.encoder.layer.0.output.dense.weight",
        stores=dict(zip(names, bert.stores, strict=True)),
        base=bert.base,
        method={"method": "mats", "damping": 0.3, "solver": {"tolerance": 1e-6}},
    )
    assert problem.models == ("first", "second", "third")
    assert problem.groups[0].settings.damping == 0.3
    result = mats.solve(problem)
    assert result.certificates[0].tolerance == 1e-6
    assert mats.solve(problem, tol=1e-3, damping=0.1).certificates[0].tolerance == 1e-3


def test_what_is_not_solved_is_refused_with_the_reason(bert: Family, tmp_path: Path) -> None:
    request = request_of(bert, tmp_path / "merged")
    with pytest.raises(RequestError, match=r"no weight of that name among \d+ that are solved; did you mean bert"):
        mats.MergeProblem.from_stores(request, "bert.encoder.layer.0.output.dense.wieght")
    with pytest.raises(RequestError, match="is a bias solved along with its weight"):
        mats.MergeProblem.from_stores(request, "bert.encoder.layer.0.output.dense.bias")
    models = {"a": bert.models[0], "b": bert.models[1]}
    with pytest.raises(RequestError, match="stores lacks model 'b'"):
        mats.MergeProblem.from_stores(models, stores={"a": bert.stores[0]}, base=bert.base)
    stores = {"a": bert.stores[0], "b": bert.stores[1], "c": bert.stores[2]}
    with pytest.raises(RequestError, match="stores names 'c', which is no model"):
        mats.MergeProblem.from_stores(models, stores=stores, base=bert.base)
    with pytest.raises(RequestError, match="go with checkpoints; a recipe says them itself"):
        mats.MergeProblem.from_stores(request, stores=stores)
    swapped = {"a": bert.stores[1], "b": bert.stores[0]}
    with pytest.raises(FingerprintMismatch, match="measured on"):
        mats.MergeProblem.from_stores(models, stores=swapped, base=bert.base)
