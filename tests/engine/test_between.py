"""Curvature measured part of the way to the base: the same sums as of a checkpoint that was moved there by hand."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from collection_cases import image_spec, vit_request, write_images, write_vit
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))  # adapters on disk are made there

import adapter_cases as cases
import checkpoint_models as tiny
import peft
from test_collection_experts import measured as measured_text
from test_collection_experts import request_for, specialist

from mats.checkpoints import load_model, open_checkpoint, parameter_names
from mats.engine import MergeRequest, ModelInput, merge
from mats.engine.between import move_toward_base_
from mats.engine.collection import plan_save_metadata, save_metadata
from mats.engine.collection_request import collection_folder
from mats.errors import RequestError
from mats.methods import RegMeanSettings
from mats.progress import Silent
from mats.store import open_store

HEAD = "classifier."


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    write_vit(root / "base", seed=1)
    write_vit(root / "vit", seed=2)
    write_images(root / "data")
    return root


def by_hand(base: Path, model: Path, target: Path, position: float, kept: str | None = None) -> Path:
    """A copy of `model` whose every tensor was moved toward the one of the same name in `base`, in float64."""
    shutil.copytree(model, target)
    start, end = load_file(base / "model.safetensors"), load_file(model / "model.safetensors")
    moved = {
        name: tensor
        if (kept is not None and name.startswith(kept)) or name not in start or start[name].shape != tensor.shape
        else (start[name].double() + position * (tensor.double() - start[name].double())).to(tensor.dtype)
        for name, tensor in end.items()
    }
    save_file(moved, target / "model.safetensors", {"format": "pt"})
    return target


def same_sums(one: Path, other: Path) -> bool:
    first, second = open_store(one), open_store(other)
    assert list(first) == list(second)
    return all(torch.allclose(first.read(key), second.read(key), rtol=1e-4, atol=1e-6) for key in first)


@pytest.mark.parametrize(
    ("heads", "kept"),
    [
        ({"heads": None}, None),
        ({}, HEAD),
        ({"heads": ()}, HEAD),
        ({"heads": ("classifier.bias",)}, "classifier.bias"),
    ],
)
@pytest.mark.parametrize("position", [0.0, 0.5, 0.8])
def test_moved_is_as_moved_by_hand(
    world: Path, tmp_path: Path, position: float, heads: dict[str, Any], kept: Any
) -> None:
    moved = by_hand(world / "base", world / "vit", tmp_path / "moved", position, kept)
    line = vit_request(world, base=str(world / "base"), root=tmp_path / "line", position=position, **heads)
    expected = save_metadata(vit_request(world, model=str(moved), root=tmp_path / "hand"))
    assert same_sums(save_metadata(line), expected)
    elsewhere = replace(line, position=0.65, root=tmp_path / "elsewhere")
    assert not same_sums(save_metadata(elsewhere), expected)


def test_the_store_is_the_models_own_and_tells_its_position(world: Path, tmp_path: Path) -> None:
    request = vit_request(world, base=str(world / "base"), root=tmp_path, position=0.5, heads=())
    manifest = open_store(save_metadata(request)).manifest
    plain = open_store(save_metadata(replace(request, position=1.0, heads=None))).manifest
    assert manifest.model == plain.model
    assert (manifest.estimator["position"], manifest.estimator["heads"]) == (0.5, [])
    assert "position" not in plain.estimator
    assert {layer.weight for layer in manifest.layers} == {layer.weight for layer in plain.layers}


def test_each_position_has_a_folder_and_the_models_own_keeps_its_name(world: Path) -> None:
    request = vit_request(world, base=str(world / "base"))
    folders = {collection_folder(replace(request, position=p, heads=h)) for p in (0.5, 0.7) for h in (None, (), ("a",))}
    assert len(folders | {collection_folder(request)}) == 7


def test_what_the_base_lacks_stays_and_is_told(world: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(world / "base", base)
    tensors = load_file(base / "model.safetensors")
    tensors["classifier.weight"] = torch.zeros(5, tensors["classifier.weight"].shape[1])
    del tensors["classifier.bias"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    request = vit_request(world, base=str(base), root=tmp_path / "line", position=0.5, heads=None)
    moved = by_hand(base, world / "vit", tmp_path / "moved", 0.5)
    told = [line for line in plan_save_metadata(request).lines() if "own weights" in line or "of the way" in line]
    assert told[0] == "measured at 0.5 of the way from the base to the model"
    assert len(told) == 2
    assert all(name in told[1] for name in ("classifier.weight", "classifier.bias"))
    expected = save_metadata(vit_request(world, model=str(moved), root=tmp_path / "hand"))
    assert same_sums(save_metadata(request), expected)


def test_a_parameter_that_the_files_do_not_hold_is_told(world: Path) -> None:
    model = load_model(world / "vit", "image_classification")
    with open_checkpoint(world / "vit") as whole, open_checkpoint(world / "base") as base:
        names = parameter_names(model, whole)
        odd = next(name for name in names if name.endswith("layernorm.weight"))
        stayed = move_toward_base_(model, {k: v for k, v in names.items() if k != odd}, whole, base, 0.5, None)
        assert stayed == (odd,)
        assert torch.equal(model.get_parameter(odd), whole.read(names[odd]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": 0.5}, "no base is given"),
        ({"position": 1.5}, "from 0"),
        ({"position": float("nan")}, "from 0"),
        ({"position": 0.5, "measured_on": "merged"}, "position 1 would be right"),
    ],
)
def test_a_line_without_ends_is_refused(world: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        save_metadata(vit_request(world, root=tmp_path, **changes))


def test_a_merge_tells_the_position_and_a_base_that_is_another(world: Path, tmp_path: Path, light_report: None) -> None:
    request = vit_request(world, base=str(world / "base"), root=tmp_path, position=0.5)
    models = (ModelInput("vit", str(world / "vit"), metadata=save_metadata(request)),)
    write_vit(tmp_path / "other", seed=9)
    notes: dict[str, list[str]] = {"base": [], "other": []}
    for name, base in (("base", world / "base"), ("other", tmp_path / "other")):
        heard = Heard(notes[name])
        result = merge(MergeRequest(models, RegMeanSettings(), tmp_path / f"on_{name}", base=str(base)), heard)
        assert result.report["models"][0]["position"] == 0.5
    of_the_base = "vit was measured 0.5 of the way from the base"
    assert not any(of_the_base in note for note in notes["base"])
    assert sum(of_the_base in note and str(tmp_path / "other") in note for note in notes["other"]) == 1


class Heard(Silent):
    """Keeps the notes."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"])
    cases.save_pair(root, tiny.vit, config, seed=0)
    shutil.copytree(root / "adapter", root / "half")
    settings = json.loads((root / "half" / "adapter_config.json").read_text())
    settings["lora_alpha"] *= 0.5  # half the update
    (root / "half" / "adapter_config.json").write_text(json.dumps(settings))
    write_images(root / "data")
    return root


def test_half_of_a_lora_is_half_of_its_update(adapters: Path, tmp_path: Path) -> None:
    data = image_spec(adapters / "data")
    settings = {"dataset": data, "base": str(adapters / "base"), "name": "adapter"}
    line = vit_request(adapters, model=str(adapters / "adapter"), root=tmp_path / "line", position=0.5, **settings)
    half = vit_request(adapters, model=str(adapters / "half"), root=tmp_path / "hand", **settings)
    assert same_sums(save_metadata(line), save_metadata(half))
    assert not same_sums(save_metadata(replace(line, position=0.9)), save_metadata(half))


@pytest.mark.parametrize("family", ["Mixtral", "gpt-oss"])
def test_experts_move_too(family: str, tmp_path: Path) -> None:
    for seed, name in ((1, "base"), (2, "model")):
        specialist(family, tmp_path / name, seed)
    moved = by_hand(tmp_path / "base", tmp_path / "model", tmp_path / "moved", 0.5)
    shutil.copy(tmp_path / "model.jsonl", tmp_path / "moved.jsonl")
    expected = measured_text(moved, tmp_path / "hand")
    own = request_for(tmp_path / "model", tmp_path / "line")
    assert same_sums(save_metadata(replace(own, base=str(tmp_path / "base"), position=0.5)), expected)
    assert not same_sums(measured_text(tmp_path / "model", tmp_path / "own"), expected)
