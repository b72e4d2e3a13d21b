"""Bodies merged, heads kept: against bodies merged by hand, and models put together in memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import make_model, nudge, save
from headed_models import CLASSES, Headed, logits_of, make_headed, with_classes
from safetensors.torch import load_file, save_file

from mats.checkpoints import load_model, open_checkpoint
from mats.checkpoints.heads import head_names
from mats.engine import Heads, MergeRequest, ModelInput, Rule, merge, plan_merge
from mats.errors import InputsMismatch, RequestError, ShapeMismatch
from mats.methods import AverageSettings, MatsSettings, TaskArithmeticSettings
from mats.methods.base import BaseSettings

HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Headed:
    return make_headed(tmp_path_factory.mktemp("headed"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Headed:
    return make_headed(tmp_path_factory.mktemp("bare"), bare=True, stores=False)


@pytest.fixture(autouse=True)
def _light(light_report: None) -> None:
    """No plots."""


def request(family: Headed, output: Path, heads: Heads | None = None, **changes: object) -> MergeRequest:
    wanted = MergeRequest(
        family.inputs(),
        TaskArithmeticSettings(scale=0.3),
        output,
        base=str(family.base),
        device="cpu",
        heads=heads or Heads(),
    )
    return replace(wanted, **changes)


def task_arithmetic(family: Headed, name: str) -> torch.Tensor:
    base = family.base_state[name]
    return base + 0.3 * sum(state[name] - base for state in family.states.values())


@pytest.mark.parametrize("which", ["headed", "bare"])
def test_the_body_is_merged_and_every_head_kept(which: str, tmp_path: Path, request_fixture: object) -> None:
    family: Headed = request_fixture(which)  # type: ignore[operator]
    result = merge(request(family, tmp_path / "out"))
    merged = load_file(result.path / "model.safetensors")
    assert set(merged) == set(family.states["two"])
    for name, tensor in merged.items():
        if name in HEAD:
            assert torch.equal(tensor, family.states["two"][name])
        else:
            torch.testing.assert_close(tensor, task_arithmetic(family, name))
    for name, classes in CLASSES.items():
        kept = load_file(result.path / "heads" / f"{name}.safetensors")
        assert set(kept) == set(HEAD)
        assert all(torch.equal(kept[part], family.states[name][part]) for part in HEAD)
        config = json.loads((result.path / "heads" / f"{name}.json").read_text())
        assert config["id2label"] == {str(i): f"{classes} classes: {i}" for i in range(classes)}
    assert head_names(result.path) == tuple(CLASSES)
    assert result.report["heads"]["models"] == {name: sorted(HEAD) for name in CLASSES}
    assert result.report["parameters"]["by_rule"]["head"] == 2 * 16 + 2


@pytest.fixture
def request_fixture(headed: Headed, bare: Headed) -> object:
    return {"headed": headed, "bare": bare}.__getitem__


def test_every_head_gives_the_logits_of_a_model_put_together_in_memory(headed: Headed, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    path = merge(request(headed, tmp_path / "out")).path
    seen = []
    for number, (name, classes) in enumerate(CLASSES.items()):
        whole = with_classes(make_model("bert", 0), classes, number)
        state = {key: task_arithmetic(headed, key) for key in headed.base_state if key not in HEAD}
        whole.load_state_dict(state | {key: headed.states[name][key] for key in HEAD})
        expected = logits_of(whole)
        loaded = load_model(path, "text_classification", head=name)
        torch.testing.assert_close(logits_of(loaded), expected)
        assert loaded.config.num_labels == classes
        assert loaded.config.id2label[classes - 1] == f"{classes} classes: {classes - 1}"
        seen.append(expected)
    plain = AutoModelForSequenceClassification.from_pretrained(path)
    torch.testing.assert_close(logits_of(plain), seen[0])
    assert plain.config.num_labels == 2
    with pytest.raises(RequestError, match=r"head 'six': not in .*; one of two, three, five would be right"):
        load_model(path, "text_classification", head="six")
    with pytest.raises(RequestError, match="keeps no heads; a result of"):
        load_model(headed.models["two"], "text_classification", head="two")


def test_a_named_model_or_the_base_gives_the_head(headed: Headed, tmp_path: Path) -> None:
    path = merge(request(headed, tmp_path / "five", Heads(source="five"))).path
    assert torch.equal(load_file(path / "model.safetensors")["classifier.weight"], headed.states["five"][HEAD[0]])
    assert load_model(path, "text_classification").config.num_labels == 5
    assert load_model(path, "text_classification", head="two").config.num_labels == 2
    path = merge(request(headed, tmp_path / "base", Heads(source="base"))).path
    assert torch.equal(load_file(path / "model.safetensors")["classifier.weight"], headed.base_state[HEAD[0]])
    assert load_model(path, "text_classification").config.num_labels == 4
    assert head_names(path) == ()


def test_alike_heads_are_averaged(tmp_path: Path) -> None:
    for number in range(2):
        save(nudge(make_model("bert", 0), 50 + number), tmp_path / f"m{number}")
    save(make_model("bert", 0), tmp_path / "base")
    states = [load_file(tmp_path / f"m{number}" / "model.safetensors") for number in range(2)]
    base = load_file(tmp_path / "base" / "model.safetensors")
    models = tuple(replace(_input(tmp_path / f"m{number}"), weight=weight) for number, weight in enumerate((1.0, 3.0)))
    wanted = MergeRequest(
        models,
        TaskArithmeticSettings(scale=0.5),
        tmp_path / "out",
        base=str(tmp_path / "base"),
        dtype="bfloat16",
        heads=Heads(source="average"),
    )
    merged = load_file(merge(wanted).path / "model.safetensors")
    expected = (states[0][HEAD[0]] + 3 * states[1][HEAD[0]]) / 4
    torch.testing.assert_close(merged[HEAD[0]], expected.bfloat16())
    pooler = "bert.pooler.dense.weight"
    moved = base[pooler] + 0.5 * sum(w * (s[pooler] - base[pooler]) for w, s in zip((1, 3), states, strict=True))
    torch.testing.assert_close(merged[pooler], moved.bfloat16())
    assert not (tmp_path / "out" / "heads").exists()


def _input(path: Path) -> ModelInput:
    return ModelInput(path.name, str(path))


def test_curvature_of_whole_models_serves_the_body(headed: Headed, tmp_path: Path) -> None:
    """As a merge of the same models under one head, where every body layer has the same quadratic."""
    method = MatsSettings(fallback=("kfac", "block", "init"))
    wanted = request(headed, tmp_path / "out", models=headed.inputs(metadata=True), method=method)
    report = merge(wanted).report
    merged = load_file(tmp_path / "out" / "model.safetensors")
    rules = {entry["name"]: entry["rule"] for entry in report["layers"]}
    assert rules["classifier.weight"] == "head"
    assert rules["bert.pooler.dense.weight"] == "kfac"
    assert rules["bert.embeddings.LayerNorm.weight"] == "block"
    assert all(model["fingerprint"] for model in report["models"])
    alone = replace(wanted, output=tmp_path / "pattern", heads=None, models=_same_heads(headed, tmp_path))
    by_hand = load_file(merge(alone).path / "model.safetensors")
    for name, tensor in merged.items():
        if name not in HEAD:
            torch.testing.assert_close(tensor, by_hand[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged["bert.pooler.dense.weight"], task_arithmetic(headed, "bert.pooler.dense.weight"))


def _same_heads(headed: Headed, root: Path) -> tuple[ModelInput, ...]:
    """The same bodies with the same curvature, all under the base's head."""
    inputs = []
    for model in headed.inputs(metadata=True):
        folder = root / f"{model.name}-under-one-head"
        shutil.copytree(headed.base, folder)
        head = {name: headed.base_state[name] for name in HEAD}
        save_file({**headed.states[model.name], **head}, folder / "model.safetensors", {"format": "pt"})
        store = root / f"{model.name}-store"
        shutil.copytree(headed.stores[model.name], store)
        manifest = json.loads((store / "manifest.json").read_text())
        with open_checkpoint(folder) as checkpoint:
            manifest["model"]["fingerprint"] = checkpoint.fingerprint()
        manifest["layers"] = [layer for layer in manifest["layers"] if layer["name"] != "classifier"]
        manifest["tensors"] = {k: v for k, v in manifest["tensors"].items() if not k.endswith("/classifier.bias")}
        (store / "manifest.json").write_text(json.dumps(manifest))
        inputs.append(replace(model, path=str(folder), metadata=store))
    return tuple(inputs)


def test_patterns_and_what_the_base_lacks_are_heads(headed: Headed, tmp_path: Path) -> None:
    pooled = Heads(parameters=("classifier*", "*pooler*"))
    plan = plan_merge(request(headed, tmp_path / "out", pooled))
    assert {name for name in plan.heads["three"] if "pooler" in name}
    assert plan.by_rule["head"] == 2 * 16 + 2 + 16 * 16 + 16
    poolerless = tmp_path / "poolerless"
    shutil.copytree(headed.base, poolerless)
    state = {k: v for k, v in load_file(headed.base / "model.safetensors").items() if "pooler" not in k}
    save_file(state, poolerless / "model.safetensors", {"format": "pt"})
    plan = plan_merge(request(headed, tmp_path / "out", base=str(poolerless)))
    assert {name for name in plan.heads["three"] if "pooler" in name}
    assert plan.missing == dict.fromkeys(CLASSES, ())


def test_rules_with_the_base_keep_parameters_out_of_the_merge(headed: Headed, tmp_path: Path) -> None:
    rules = (Rule("*LayerNorm*", BaseSettings()),)
    merged = load_file(merge(request(headed, tmp_path / "out", rules=rules)).path / "model.safetensors")
    for name, tensor in merged.items():
        if "LayerNorm" in name:
            assert torch.equal(tensor, headed.base_state[name])
        elif name not in HEAD:
            assert not torch.equal(tensor, headed.base_state[name]), name


def test_without_a_base_the_average_of_bodies(headed: Headed, tmp_path: Path) -> None:
    wanted = request(headed, tmp_path / "out", Heads(source="three"), base=None, method=AverageSettings())
    merged = load_file(merge(wanted).path / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(merged[name], sum(s[name] for s in headed.states.values()) / 3)
    assert merged["classifier.weight"].shape == (3, 16)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_unlike_heads_without_a_word_are_told_what_to_write(headed: Headed, tmp_path: Path) -> None:
    line = r"model two: its head has another shape than that of base \(classifier.*\); `heads: auto` in the recipe"
    with pytest.raises(ShapeMismatch, match=line):
        merge(replace(request(headed, tmp_path / "out"), heads=None))
    assert not (tmp_path / "out").exists()


def test_a_base_without_heads_is_pointed_out(bare: Headed, tmp_path: Path) -> None:
    plan = plan_merge(replace(request(bare, tmp_path / "out"), heads=None))
    assert plan.notes == (
        "the heads of two, three, five are not in the base and are left out; heads: auto would keep them",
    )
    assert plan_merge(request(bare, tmp_path / "out")).notes == ()


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        (Heads(source="average"), ShapeMismatch, r"heads.from: average: classifier.* in \w+ and .*own\} keeps each"),
        (Heads(parameters=("surely*",)), RequestError, r"heads.parameters: 'surely\*' is the name of no tensor"),
        (Heads(parameters=("*",)), InputsMismatch, r"no body to merge: outside \* they have no tensor in common"),
    ],
)
def test_heads_that_cannot_be_kept_apart(
    headed: Headed, tmp_path: Path, heads: Heads, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_merge(request(headed, tmp_path / "out", heads))


def test_requests_for_heads_that_are_not_there(bare: Headed, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"heads.from: 'six'; own, average, base or a model \(two, three, five\)"):
        request(bare, tmp_path / "out", Heads(source="six"))
    with pytest.raises(RequestError, match=r"heads.from: base: .* none is given; own would be right"):
        plan_merge(request(bare, tmp_path / "out", Heads(source="base"), base=None, method=AverageSettings()))
    with pytest.raises(InputsMismatch, match="model base: no head"):
        plan_merge(request(bare, tmp_path / "out", Heads(source="base")))
    bodies = (*bare.inputs()[:1], _input(bare.base))
    with pytest.raises(InputsMismatch, match="model base: no head: none of its 39 tensors is one of classifier, score"):
        plan_merge(request(bare, tmp_path / "out", models=bodies))


def test_a_head_tied_to_the_body_is_refused(headed: Headed, tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    shutil.copytree(headed.models["two"], folder)
    state = load_file(folder / "model.safetensors")
    state["cls.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    models = (_input(folder), *headed.inputs()[1:])
    with pytest.raises(InputsMismatch, match=r"model tied: cls.decoder.weight of its head and bert.embeddings"):
        plan_merge(request(headed, tmp_path / "out", models=models))
