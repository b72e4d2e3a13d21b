"""TIES whose signs a multitask model elects, as a whole merge: read like a model, checked before any tensor is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family
from safetensors.torch import load_file, save_file
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, Rule, merge, merge_variants, plan_merge
from mats.engine.identity import merge_identity
from mats.engine.inputs import MergeInputs
from mats.engine.plan import make_plan
from mats.errors import InputsMismatch, RequestError
from mats.methods import AverageSettings, MatsSettings, TiesSettings, elementwise
from mats.methods.settings import ElementwiseSettings

pytestmark = pytest.mark.usefixtures("light_report")


def weights(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.fixture
def multitask(bert: Family, tmp_path: Path) -> Path:
    """A model with changes of its own, beside those that are merged."""
    folder = tmp_path / "multitask"
    folder.mkdir()
    generator = torch.Generator().manual_seed(77)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights(bert.base).items()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((bert.base / "config.json").read_bytes())
    return folder


def request(family: Family, output: Path, method: ElementwiseSettings) -> MergeRequest:
    return MergeRequest(family.inputs(), method, output, str(family.base), device="cpu")


def test_changes_take_the_signs_of_the_multitask_model(bert: Family, multitask: Path, tmp_path: Path) -> None:
    settings = TiesSettings(elect="oracle", oracle=str(multitask), trim="none", aggregate="disjoint_mean")
    merged = weights(merge(request(bert, tmp_path / "out", settings)).path)
    base, oracle = weights(bert.base), weights(multitask)
    models = [weights(path) for path in bert.models]
    checked = 0
    for name, start in base.items():
        if not start.is_floating_point():
            continue
        changes = torch.stack([model[name].double() - start.double() for model in models])
        sign = (oracle[name].double() - start.double()).sign()
        agree = (changes.sign() == sign) & (changes != 0)
        expected = start + (changes * agree).sum(0) / agree.sum(0).clamp(min=1)
        torch.testing.assert_close(merged[name].double(), expected, atol=1e-6, rtol=0)
        checked += int((agree.sum(0) < len(models)).sum())
    assert checked > 1000  # the oracle did overrule models
    plain = weights(merge(request(bert, tmp_path / "plain", TiesSettings(trim="none"))).path)
    assert max(float((merged[name] - plain[name]).abs().max()) for name in merged) > 1e-3


def test_rules_and_starts_may_ask_too(bert: Family, multitask: Path, tmp_path: Path) -> None:
    asking = TiesSettings(elect="oracle", oracle=str(multitask))
    whole = weights(merge(request(bert, tmp_path / "whole", asking)).path)
    by_rule = replace(request(bert, tmp_path / "rule", AverageSettings()), rules=(Rule("*", asking),))
    assert all(torch.equal(whole[name], value) for name, value in weights(merge(by_rule).path).items())
    start = MatsSettings(init=asking, fallback=("init",))
    by_start = replace(request(bert, tmp_path / "start", start), models=bert.inputs(metadata=True))
    assert all(torch.equal(whole[name], value) for name, value in weights(merge(by_start).path).items())


def test_what_does_not_fit_is_refused_before_anything_is_read(bert: Family, multitask: Path, tmp_path: Path) -> None:
    settings = TiesSettings(elect="oracle", oracle=str(multitask))
    file = multitask / "model.safetensors"
    state = load_file(file)
    dropped = next(name for name in state if name.endswith("query.weight"))
    save_file({name: value for name, value in state.items() if name != dropped}, file, {"format": "pt"})
    with pytest.raises(InputsMismatch, match=rf"multitask: lacks 1 tensors .*first: {dropped}"):
        plan_merge(request(bert, tmp_path / "out", settings))
    config = json.loads((multitask / "config.json").read_text())
    (multitask / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(InputsMismatch, match="multitask"):
        plan_merge(request(bert, tmp_path / "out", settings))


def test_another_multitask_model_is_another_merge(bert: Family, multitask: Path, tmp_path: Path) -> None:
    """Partial work must not be taken up again under other signs."""
    asked = request(bert, tmp_path / "out", TiesSettings(elect="oracle", oracle=str(multitask)))

    def identity() -> str:
        with MergeInputs(asked) as inputs:
            return merge_identity(inputs, make_plan(inputs))

    before = identity()
    assert identity() == before
    file = multitask / "model.safetensors"
    save_file({name: -value for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert identity() != before


def test_a_median_counts_every_model_in_its_memory(bert: Family, tmp_path: Path) -> None:
    one = plan_merge(request(bert, tmp_path / "a", TiesSettings(aggregate="magnitude"))).peak_bytes
    assert plan_merge(request(bert, tmp_path / "b", TiesSettings(aggregate="median"))).peak_bytes > one


def test_merges_under_two_oracles_do_not_share_a_pass(bert: Family, multitask: Path, tmp_path: Path) -> None:
    """One of them would take the other's signs."""
    asked = [
        request(bert, tmp_path / str(index), TiesSettings(elect="oracle", oracle=str(oracle)))
        for index, oracle in enumerate((multitask, bert.models[0]))
    ]
    with pytest.raises(RequestError, match=r"variants may differ .* merge it by itself"):
        merge_variants(asked)
    first, second = (elementwise(one.method, [1.0] * 3) for one in asked)
    assert not second.follow(first)
