"""Statistics of LoRA models: measured on the weights that are merged, under their names, checked against both files."""

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

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, ModelInput, merge
from mats.engine.collection import save_metadata
from mats.errors import FingerprintMismatch
from mats.methods import RegMeanSettings, TaskArithmeticSettings
from mats.store import open_store

pytestmark = pytest.mark.usefixtures("light_report")
QUERY = "vit.encoder.layer.0.attention.attention.query.weight"  # in files; transformers 5 calls it layers.0.….q_proj


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters on it, the same two as whole models, and images."""
    root = tmp_path_factory.mktemp("lora_world")
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"], use_dora=True)
    for number in range(2):
        cases.save_pair(root, tiny.vit, config, seed=number)
        (root / "adapter").rename(root / f"adapter{number}")
        models = (ModelInput("one", str(root / f"adapter{number}")),)
        settings: dict[str, Any] = {"base": str(root / "base"), "device": "cpu"}
        merge(MergeRequest(models, TaskArithmeticSettings(scale=1.0), root / f"whole{number}", **settings))
    write_images(root / "data")
    return root


def measured(world: Path, folder: Path, name: str, **changes: Any) -> Path:
    settings = {"model": str(world / name), "name": name, "dataset": image_spec(world / "data"), "root": folder}
    if name.startswith("adapter"):
        settings["base"] = str(world / "base")
    return save_metadata(vit_request(world, **{**settings, **changes}))


def test_an_adapter_is_measured_as_the_whole_model_that_it_makes(world: Path, tmp_path: Path) -> None:
    adapter, whole = (open_store(measured(world, tmp_path, name)) for name in ("adapter0", "whole0"))
    assert [layer.weight for layer in adapter.manifest.layers] == [layer.weight for layer in whole.manifest.layers]
    assert QUERY in {layer.weight for layer in adapter.manifest.layers}
    assert adapter.manifest.uncovered == whole.manifest.uncovered
    for name in whole:
        torch.testing.assert_close(adapter.read(name), whole.read(name), rtol=1e-4, atol=1e-5)
    with open_checkpoint(world / "adapter0") as file, open_checkpoint(world / "base") as base:
        assert adapter.manifest.model.fingerprint == file.fingerprint()
        assert adapter.manifest.model.base_fingerprint == base.fingerprint()


def inputs(world: Path, stores: dict[str, Path]) -> tuple[ModelInput, ...]:
    return tuple(ModelInput(name, str(world / name), metadata=store) for name, store in stores.items())


def test_adapters_are_merged_by_their_statistics(world: Path, tmp_path: Path) -> None:
    results = []
    for kind in ("adapter", "whole"):
        stores = {f"{kind}{number}": measured(world, tmp_path, f"{kind}{number}") for number in range(2)}
        output = tmp_path / f"merged_{kind}"
        settings: dict[str, Any] = {"base": str(world / "base"), "device": "cpu"}
        report = merge(MergeRequest(inputs(world, stores), RegMeanSettings(), output, **settings)).report
        assert "input_gram" in report["parameters"]["by_rule"]
        with open_checkpoint(output) as checkpoint:
            results.append({name: checkpoint.read(name) for name in checkpoint.tensors})
    with open_checkpoint(world / "base") as base:
        assert not torch.allclose(results[0][QUERY], base.read(QUERY), atol=1e-2)
    for name, tensor in results[1].items():
        torch.testing.assert_close(results[0][name], tensor, rtol=1e-3, atol=1e-4)


def test_a_store_of_another_adapter_or_another_base_is_refused(world: Path, tmp_path: Path) -> None:
    store = measured(world, tmp_path, "adapter0")
    settings: dict[str, Any] = {"base": str(world / "base"), "device": "cpu"}
    swapped = inputs(world, {"adapter1": store})
    with pytest.raises(FingerprintMismatch, match="adapter1"):
        merge(MergeRequest(swapped, RegMeanSettings(), tmp_path / "out", **settings))
    settings["base"] = str(world / "whole1")
    with pytest.raises(FingerprintMismatch, match="adapter0 was measured on the base"):
        merge(MergeRequest(inputs(world, {"adapter0": store}), RegMeanSettings(), tmp_path / "out", **settings))
