"""The folder of heads, and models put together from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mats.checkpoints import load_model, open_checkpoint
from mats.checkpoints.heads import configuration_of, head_names, is_head, part_of, read_heads_index, write_heads
from mats.errors import CheckpointCorrupt, InputsMismatch, RequestError

OWN, OTHER = "first", "hub/second model"


def with_classes(model: Any, count: int) -> nn.Module:
    torch.manual_seed(count)
    model.classifier = nn.Linear(model.classifier.in_features, count)
    model.config.id2label = {index: f"class {index}" for index in range(count)}
    model.config.label2id = {f"class {index}": index for index in range(count)}
    model.num_labels = count
    return model


def folder_of_heads(root: Path, make: Any) -> dict[str, nn.Module]:
    """`root/merged`: a model of three classes, with its head and one of five kept beside it."""
    models = {OWN: with_classes(make(), 3), OTHER: with_classes(make(), 5)}
    models[OWN].save_pretrained(root / "merged")
    heads, configs = {}, {}
    for number, (name, model) in enumerate(models.items()):
        model.save_pretrained(root / f"m{number}")
        checkpoint = open_checkpoint(root / f"m{number}")
        heads[name] = part_of(checkpoint, [name for name in checkpoint.tensors if is_head(name)])
        configs[name] = configuration_of(heads[name], None)
    write_heads(root / "merged", heads, configs, OWN)
    return models


@pytest.mark.parametrize(("make", "task"), [(tiny.bert, "text_classification"), (tiny.vit, "image_classification")])
def test_a_head_on_the_body_is_the_whole_model(tmp_path: Path, make: Any, task: str) -> None:
    models = folder_of_heads(tmp_path, make)
    assert head_names(tmp_path / "merged") == (OWN, OTHER)
    for name, model in models.items():
        loaded = load_model(tmp_path / "merged", task, head=name)
        assert torch.equal(tiny.logits(loaded), tiny.logits(model.eval()))
        assert loaded.config.id2label == model.config.id2label
        with open_checkpoint(tmp_path / "merged", head=name) as shown, open_checkpoint(tmp_path / "m0") as first:
            assert set(shown.tensors) == set(first.tensors)
            assert shown.config["id2label"] == {str(key): label for key, label in model.config.id2label.items()}
            same = shown.fingerprint() == first.fingerprint()
            assert same == (name == OWN)
    half = load_model(tmp_path / "merged", task, head=OTHER, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert not torch.equal(tiny.logits(load_model(tmp_path / "merged", task)), tiny.logits(models[OTHER])[:, :3])


def test_names_that_are_heads() -> None:
    heads = ["classifier.weight", "base_model.model.classifier.bias", "score.weight", "qa_outputs.bias", "cls.x.bias"]
    bodies = ["bert.pooler.dense.weight", "lm_head.weight", "encoder.score.weight", "bert.classifier_norm.weight"]
    assert all(map(is_head, heads))
    assert not any(map(is_head, bodies))
    assert is_head("bert.pooler.dense.weight", ["score*", "*pooler*"])
    assert not is_head("classifier.weight", ["score*", "*pooler*"])


def test_weights_without_a_configuration_know_their_number_of_classes(tmp_path: Path) -> None:
    with_classes(tiny.bert(), 3).save_pretrained(tmp_path / "base")
    (tmp_path / "lone").mkdir()
    save_file({"classifier.weight": torch.ones(5, 16)}, tmp_path / "lone" / "weights.safetensors")
    with open_checkpoint(tmp_path / "lone" / "weights.safetensors") as lone, open_checkpoint(tmp_path / "base") as base:
        assert configuration_of(lone, base)["id2label"]["4"] == "LABEL_4"
        assert configuration_of(base, None)["id2label"]["2"] == "class 2"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("missing", CheckpointCorrupt, r"first.safetensors: missing, although index.json names it"),
        ("outside", CheckpointCorrupt, r"missing, although index.json names it"),
        ("index", CheckpointCorrupt, r"index.json: not an index of heads"),
        ("owner", CheckpointCorrupt, r"the folder's own head, of 'nobody', is not among its heads"),
        ("tensor", CheckpointCorrupt, r"first.safetensors: tensor classifier.bias is not in it"),
        ("config", CheckpointCorrupt, r"first.json: not readable as JSON"),
        ("incomplete", InputsMismatch, r"merged with the head of first: has no classifier.bias"),
        ("unknown", RequestError, r"tensor surplus has no place|has no place in the base"),
    ],
)
def test_damaged_heads(tmp_path: Path, damage: str, error: type[Exception], message: str) -> None:
    folder_of_heads(tmp_path, tiny.bert)
    heads = tmp_path / "merged" / "heads"
    index = json.loads((heads / "index.json").read_text())
    weights = load_file(heads / "first.safetensors")
    if damage == "missing":
        (heads / "first.safetensors").unlink()
    elif damage == "outside":
        index["heads"][0]["weights"] = "../model.safetensors"
    elif damage == "index":
        index = {"heads": 3}
    elif damage == "owner":
        index["owner"] = "nobody"
    elif damage == "tensor":
        save_file({"classifier.weight": weights["classifier.weight"]}, heads / "first.safetensors")
    elif damage == "config":
        (heads / "first.json").write_text("{")
    elif damage == "incomplete":
        index["heads"][0]["parameters"] = ["classifier.weight"]
        state = load_file(tmp_path / "merged" / "model.safetensors")
        del state["classifier.bias"]
        save_file(state, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    else:
        save_file({**weights, "surplus": torch.ones(3)}, heads / "first.safetensors")
        index["heads"][0]["parameters"].append("surplus")
        error = InputsMismatch
    (heads / "index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        load_model(tmp_path / "merged", "text_classification", head="first")


def test_folders_without_heads(tmp_path: Path) -> None:
    tiny.bert().save_pretrained(tmp_path / "plain")
    assert head_names(tmp_path / "plain") == ()
    assert head_names(tmp_path / "nowhere") == ()
    assert read_heads_index(tmp_path / "plain") is None
    with pytest.raises(RequestError, match=r"head 'x': .*plain keeps no heads; a result of `heads"):
        open_checkpoint(tmp_path / "plain", head="x")
