"""The answer depends neither on the order of the models nor on how layers are grouped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_families import Family

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, merge, plan_merge
from mats.methods import MatsSettings, TiesSettings
from mats.methods.settings import MethodSettingsBase

pytestmark = pytest.mark.usefixtures("light_report")
METHODS: list[MethodSettingsBase] = [
    MatsSettings(),
    MatsSettings(init=TiesSettings(density=0.3)),
    TiesSettings(density=0.3, zero_votes="majority"),
]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("method", METHODS, ids=["mats", "mats from ties", "ties"])
def test_order_of_models(bert: Family, tmp_path: Path, method: MethodSettingsBase) -> None:
    models = bert.inputs(weights=(1.0, 2.0, 0.5))
    found = []
    for place, order in enumerate((models, models[::-1])):
        request = MergeRequest(base=str(bert.base), models=order, method=method, output=tmp_path / str(place))
        found.append(tensors(merge(request).path))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_grouping(bert: Family, tmp_path: Path) -> None:
    """A budget that holds one layer at a time gives what one batch of all gives."""
    large = MergeRequest(base=str(bert.base), models=bert.inputs(), method=MatsSettings(), output=tmp_path / "large")
    biggest = max(group.bytes // len(group.systems) for group in plan_merge(large).groups)
    small = MergeRequest(
        base=str(bert.base),
        models=bert.inputs(),
        method=MatsSettings(),
        output=tmp_path / "small",
        memory_budget=biggest,
    )
    assert len(plan_merge(small).groups) > len(plan_merge(large).groups)
    assert plan_merge(small).peak_bytes < plan_merge(large).peak_bytes
    one, other = tensors(merge(large).path), tensors(merge(small).path)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)
