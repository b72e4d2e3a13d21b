"""Sums on disk or in host memory are the bytes of sums beside the layer; bfloat16 models are measured as they are."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from curvature_models import FAMILIES, classification_batch, tiny_bert
from torch import Tensor, nn

from mats.curvature import CollectionSettings, Collector, plan_collection
from mats.curvature.accumulators import BesideTheLayer, Home, InHostMemory, OnDisk
from mats.curvature.settings import STATISTICS
from mats.errors import OutOfSpace
from mats.store.records import Sums

EVERYTHING = CollectionSettings(statistics=STATISTICS)


def measured(home: Home, family: str, device: str, *, resumed: bool = False) -> Sums:
    """The sums of two batches; `resumed`: the second one added by another collector, to what the first one gave."""
    make_model, make_batch = FAMILIES[family]
    model = make_model().float().to(device)
    plan = plan_collection(model, make_batch(3), EVERYTHING)
    with Collector(model, plan, home=home) as collector:
        collector.add(make_batch(3))
        if resumed:
            sums = collector.partial()
            collector = Collector(model, plan, home=home).__enter__()
            collector.load(sums)
        collector.add(make_batch(4, 3))
        return collector.sums()


@pytest.mark.parametrize("family", ["t5", "vit"])
@pytest.mark.parametrize("resumed", [False, True])
def test_where_sums_accumulate_does_not_matter(family: str, resumed: bool, tmp_path: Path, device: str) -> None:
    expected = measured(BesideTheLayer(), family, device)
    for home in (InHostMemory(), OnDisk(tmp_path / "sums")):
        found = measured(home, family, device, resumed=resumed)
        for key, tensor in expected.tensors.items():
            assert torch.equal(found.tensors[key], tensor) or device != "cpu", key
            assert torch.allclose(found.tensors[key], tensor, rtol=1e-5), key
        assert found.tokens == expected.tokens
        assert found.example_ids == expected.example_ids


def test_sums_on_disk_are_files_of_their_size_and_go_away(tmp_path: Path) -> None:
    home = OnDisk(tmp_path / "sums")
    total = home.zeros((30, 30), torch.float32, torch.device("cpu"))
    (reserved,) = [path.stat().st_blocks * 512 for path in (tmp_path / "sums").iterdir()]
    assert reserved >= 3600, "a hole in the file would be found out when the disk is full"
    total += 1.5
    assert [path.stat().st_size for path in (tmp_path / "sums").iterdir()] == [3600]
    home.clear()
    assert not (tmp_path / "sums").exists()
    assert float(total.sum()) == 1350.0


def test_a_disk_without_room_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mats.curvature.accumulators.shutil.disk_usage", lambda _path: usage(10, 9, 1000))
    with pytest.raises(OutOfSpace, match="sums of 3,600 bytes, but 1,000 are free"):
        OnDisk(tmp_path / "sums").zeros((30, 30), torch.float32, torch.device("cpu"))


def test_a_bfloat16_model_is_measured_without_upcasting_it() -> None:
    """The sums are float64 products of the activations and gradients that the bfloat16 model itself computes."""
    model, batch = tiny_bert().bfloat16(), classification_batch(5)
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    plan = plan_collection(model, batch, replace(EVERYTHING, statistics=("input_gram", "output_gram")))
    layers = {layer.name for layer in plan.layers if layer.kind == "linear"}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert {output.dtype, args[0].dtype, module.get_parameter("weight").dtype} == {torch.bfloat16}
        inputs[name] = args[0].detach().double()
        output.register_hook(lambda delta: gradients.__setitem__(name, delta.double()))

    with Collector(model, plan) as collector:
        handles = [
            module.register_forward_hook(lambda m, a, o, name=name: keep(name, m, a, o))
            for name, module in model.named_modules()
            if name in layers
        ]
        collector.add(batch)
        for handle in handles:
            handle.remove()
        sums = collector.sums()
    assert len(layers) >= 8
    for layer in plan.layers:
        if layer.name not in layers:
            continue
        for key, seen in (("input_gram", inputs), ("output_gram", gradients)):
            found = sums.tensors[f"{key}/{layer.site if key == 'input_gram' else layer.name}"]
            assert found.dtype == torch.float32
            rows = seen[layer.name]
            if rows.dim() == 3:
                assert batch.input_mask is not None
                rows = rows[batch.input_mask]
            if found.shape[0] == rows.shape[-1] + 1:
                rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            expected = rows.T @ rows
            assert float((found.double() - expected).norm()) <= 1e-5 * float(expected.norm()), (key, layer.name)
