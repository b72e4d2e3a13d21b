"""From adapters through `save_metadata` to an adapter cut by what was measured, under transformers' new names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from collection_cases import image_spec, vit_request, write_images

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))  # adapters on disk are made there

import adapter_cases as cases
import checkpoint_models as tiny
import peft

from mats.checkpoints.lora import open_lora
from mats.engine import MergeRequest, ModelInput, Rule, merge
from mats.engine.collection import save_metadata
from mats.methods import AverageSettings, RegMeanSettings, TaskArithmeticSettings
from mats.methods.adapter_settings import AdapterSettings


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelInput, ...]:
    """Two adapters of a ViT whose files call `query` what the loaded model calls `q_proj`, each with its metadata."""
    root = tmp_path_factory.mktemp("measured_lora")
    write_images(root / "data")
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"])
    found = []
    for number in range(2):
        cases.save_pair(root, tiny.vit, config, seed=number)
        folder = (root / "adapter").rename(root / f"adapter{number}")
        settings = {"model": str(folder), "name": folder.name, "dataset": image_spec(root / "data")}
        store = save_metadata(vit_request(root, **settings, base=str(root / "base"), root=root / "metadata"))
        found.append(ModelInput(folder.name, str(folder), 1.0, store))
    return tuple(found)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (RegMeanSettings(), {"rank": 2}),
        (TaskArithmeticSettings(scale=1.0), {"rank": 2, "metric": "curvature"}),
    ],
    ids=["dense", "factors"],
)
def test_measured_adapters(models: tuple[ModelInput, ...], tmp_path: Path, method: Any, settings: Any) -> None:
    base = str(Path(models[0].path).parent / "base")
    request = MergeRequest(
        models, method, tmp_path / "out", base=base, adapters=AdapterSettings(**settings), device="cpu"
    )
    report = merge(request).report
    assert {entry["metric"] for entry in report["layers"]} == {"curvature"}
    assert all(entry["truncation_error_in_metric"] <= entry["truncation_error"] for entry in report["layers"])
    assert "vit.encoder.layer.0.attention.attention.query.weight" in {entry["name"] for entry in report["layers"]}
    with open_lora(tmp_path / "out") as merged, open_lora(models[0].path) as first:
        assert merged.modules.keys() == first.modules.keys()


def test_rules_speak_of_the_base_s_names(models: tuple[ModelInput, ...], tmp_path: Path) -> None:
    base = str(Path(models[0].path).parent / "base")
    rules = (Rule("*.query.weight", AverageSettings()),)
    method = TaskArithmeticSettings(scale=1.0)
    request = MergeRequest(models, method, tmp_path / "out", base=base, adapters=AdapterSettings(), rules=rules)
    merge(request)
    with open_lora(models[0].path) as a, open_lora(models[1].path) as b, open_lora(tmp_path / "out") as merged:
        for name, module in merged.modules.items():
            share = 0.5 if "q_proj" in name else 1.0
            expected = share * (a.modules[name].update() + b.modules[name].update())
            torch.testing.assert_close(module.update(), expected, rtol=1e-5, atol=1e-6)
