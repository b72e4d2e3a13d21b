"""Encoders with heads of their own, from measuring to scoring; and statistics refreshed at the merged weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from headed_tasks import OUTPUTS, HeadedTasks, build_headed_tasks
from safetensors.torch import load_file

from mats.checkpoints import load_model, open_checkpoint
from mats.cli import main as cli
from mats.curvature import CollectionSettings, collect
from mats.data import load_examples, load_processor, load_spec, make_batches
from mats.engine import CollectionRequest, merge, save_metadata
from mats.errors import FingerprintMismatch, RequestError
from mats.recipes import load_recipe
from mats.recipes.checking import find_problems
from mats.recipes.requests import collection_request, merge_request
from mats.recipes.schema import Recipe
from mats.recipes.scoring import evaluation_settings, recipe_scorings, run_scorings
from mats.store import open_store

METHOD = {"method": "mats", "init": "average", "anchor": 0.05, "damping": 0.0, "scaling": "examples"}
SOLVER = {"solver": {"name": "pcg", "tolerance": 1e-9, "max_iterations": 2000, "precision": "float64"}}
LAYER = "bert.encoder.layer.1.output.dense"


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only report.json."""
    monkeypatch.setattr(
        "mats.engine.merging.write_report",
        lambda report, folder, **_: (folder / "report.json").write_text(json.dumps(report)),
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> HeadedTasks:
    return build_headed_tasks(tmp_path_factory.mktemp("headed") / "tasks")


def recipe(tasks: HeadedTasks, root: Path, *overrides: str, **sections: Any) -> Recipe:
    statistics = ["input_gram", "output_gram", "block"]
    curvature = {"statistics": statistics, "block_parameters": "*LayerNorm*", "store": str(root / "metadata")}
    content = {"heads": "auto", "merge": {**METHOD, **SOLVER}, "curvature": curvature, **sections}
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(tasks.recipe(output=str(root / "merged"), **content)))
    return load_recipe(path, overrides)


def measured(found: Recipe) -> list[Path]:
    return [save_metadata(collection_request(found, model)) for model in found.models]


@pytest.fixture(scope="module")
def first(tasks: HeadedTasks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """The root of a first merge, with its metadata, and its recipe."""
    root = tmp_path_factory.mktemp("first")
    found = recipe(tasks, root)
    measured(found)
    assert find_problems(found) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mats.engine.merging.write_report", lambda *_, **__: None)
        merge(merge_request(found))
    return root, found


def test_one_store_serves_linear_layers_norms_and_embeddings(first: tuple[Path, Recipe]) -> None:
    root, _ = first
    rules = {
        name: merge(merge_request(load_recipe(root / "recipe.yaml", overrides), root / name)).report["parameters"]
        for name, overrides in {
            "all": ["merge.fallback=[kfac, block, init]"],
            "linear": ["merge.fallback=[kfac, init]", "merge.layer_kinds=[linear]"],
            "counts": ["merge.rules=[{parameters: '*embeddings.weight', method: regmean, anchor: 0.05}]"],
        }.items()
    }
    embeddings, positions, norms = 42 * 16, 20 * 16, 5 * 2 * 16
    linear = 2 * (4 * 16 * 17 + 2 * 16 * 24 + 24 + 16) + 16 * 17
    head = 2 * 16 + 2
    assert rules["all"]["by_rule"] == {"block": norms, "head": head, "init": positions, "kfac": linear + embeddings}
    assert rules["linear"]["by_rule"] == {"head": head, "init": positions + embeddings + norms, "kfac": linear}
    counts = {"block": norms, "head": head, "init": positions, "input_gram": embeddings, "kfac": linear}
    assert rules["counts"]["by_rule"] == counts


def test_merged_results_are_scored_under_each_tasks_own_head(tasks: HeadedTasks, first: tuple[Path, Recipe]) -> None:
    root, found = first
    scores = run_scorings(recipe_scorings(found), evaluation_settings(found))
    results = next(entry["results"] for entry in scores["models"] if entry["name"] == "merged")
    merged = load_file(root / "merged" / "model.safetensors")
    for name, outputs in OUTPUTS.items():
        spec = load_spec(tasks.data[name])
        model: Any = load_model(tasks.models[name], spec.task)
        own = model.state_dict()
        model.load_state_dict({key: own[key] if key.startswith("classifier") else merged[key] for key in own})
        examples = load_examples(spec, "test")
        (batch,) = make_batches(examples, spec, load_processor(tasks.models[name], spec), 99)
        with torch.no_grad():
            logits = model(**batch.inputs).logits
        if outputs == 1:
            expected = np.corrcoef(logits[:, 0], batch.labels)[0, 1]
        else:
            expected = (logits.argmax(1) == batch.labels).double().mean()
        assert results[name]["value"] == pytest.approx(float(expected), abs=1e-6), name


# -- statistics at the merged weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refreshed(tasks: HeadedTasks, first: tuple[Path, Recipe]) -> Recipe:
    """The same merge with metadata measured on the first result."""
    root, _ = first
    text = yaml.safe_load((root / "recipe.yaml").read_text())
    for model in text["models"]:
        model["measured_on"] = str(root / "merged")
    text["output"] = str(root / "again")
    (root / "again.yaml").write_text(yaml.safe_dump(text))
    found = load_recipe(root / "again.yaml")
    measured(found)
    return found


def test_what_is_measured_is_the_merged_body_under_the_tasks_head(
    tasks: HeadedTasks, first: tuple[Path, Recipe], refreshed: Recipe
) -> None:
    root, found = first
    for model in refreshed.models:
        request = collection_request(refreshed, model)
        folder = save_metadata(request)
        assert folder != save_metadata(collection_request(found, found.model_named(model.name)))
        store = open_store(folder)
        spec = load_spec(tasks.data[model.name])
        loaded = load_model(root / "merged", spec.task, head=model.name)
        batches = make_batches(load_examples(spec, "validation"), spec, load_processor(root / "merged", spec), 8)
        _, sums = collect(loaded, batches, CollectionSettings())
        for key, expected in sums.tensors.items():
            torch.testing.assert_close(store.sum(key), expected.to(store.sum(key).dtype), rtol=1e-4, atol=1e-6)
        _, own = collect(load_model(tasks.models[model.name], spec.task), batches, CollectionSettings())
        key = f"input_gram/{LAYER}"
        assert float((store.sum(key) - own.tensors[key]).norm() / own.tensors[key].norm()) > 0.05
        direct = save_metadata(
            replace(request, model=str(root / "merged"), measured_on=None, head=model.name, root=root / "direct")
        )
        assert open_store(direct).manifest.model.fingerprint == store.manifest.model.fingerprint
        with open_checkpoint(root / "merged", head=model.name) as checkpoint:
            store.check_model(checkpoint.fingerprint(), model.name)


def test_the_second_merge_is_the_solution_of_the_refreshed_quadratics(
    tasks: HeadedTasks, first: tuple[Path, Recipe], refreshed: Recipe
) -> None:
    """One layer, dense in float64: refreshed curvature, specialists as targets."""
    request = merge_request(refreshed)
    result = merge(request)
    merged = load_file(result.path / "model.safetensors")
    states = [load_file(path / "model.safetensors") for path in tasks.models.values()]
    targets = [_joined(state) for state in states]
    old = [open_store(model.metadata) for model in merge_request(first[1]).models]
    new = [open_store(model.metadata) for model in request.models]
    found = _joined(merged)
    start = sum(targets) / 3
    assert _distance(found, _solution(new, targets)) < 1e-4 * _distance(found, start)
    assert _distance(found, _solution(old, targets)) > 1e-2 * _distance(found, start)
    assert result.report["models"][0]["measured_on"] == str(first[0] / "merged")
    assert f"the metadata of two were measured on {first[0] / 'merged'}" in result.report["notes"]


def _joined(state: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([state[f"{LAYER}.weight"].double(), state[f"{LAYER}.bias"].double()[:, None]], axis=1)


def _solution(stores: list[Any], targets: list[np.ndarray]) -> np.ndarray:
    """(Σ C + μ I) Δ = Σ C (w − x0) from the average x0."""
    start = sum(targets) / len(targets)
    curvatures = []
    for store in stores:
        inputs, outputs = store.sum(f"input_gram/{LAYER}").double(), store.sum(f"output_gram/{LAYER}").double()
        curvatures.append(np.kron(outputs, inputs) / (store.examples * store.tokens("layer", LAYER)))
    total = sum(curvatures)
    mu = METHOD["anchor"] * sum(np.trace(c) / len(c) for c in curvatures)
    right = sum(c @ (t - start).ravel() for c, t in zip(curvatures, targets, strict=True))
    return start + np.linalg.solve(total + mu * np.eye(len(total)), right).reshape(start.shape)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other))


def test_the_command_gives_what_both_steps_by_hand_give(
    first: tuple[Path, Recipe], refreshed: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = first
    by_hand = merge(replace(merge_request(refreshed), output=tmp_path / "by_hand"))
    command = ["refresh", str(root / "recipe.yaml"), str(root / "merged"), str(tmp_path / "again"), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(tmp_path / "again")
    merged = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert merged == (by_hand.path / "model.safetensors").read_bytes()
    assert merged != (root / "merged" / "model.safetensors").read_bytes()
    assert cli.main(command) == 2
    assert "already" in json.loads(capsys.readouterr().out)["error"]


def test_stores_of_merged_weights_are_refused_without_the_word(
    tasks: HeadedTasks, first: tuple[Path, Recipe], refreshed: Recipe, tmp_path: Path
) -> None:
    request = merge_request(refreshed, tmp_path / "out")
    silent = tuple(replace(model, measured_on=None) for model in request.models)
    with pytest.raises(FingerprintMismatch, match=r"measured on 'two' .*merged with the head of two.*, not on 'two'"):
        merge(replace(request, models=silent))
    elsewhere = (*request.models[:2], replace(request.models[2], measured_on=str(tasks.models["number"])))
    with pytest.raises(FingerprintMismatch, match=r"not on 'number measured_on .*number'"):
        merge(replace(request, models=elsewhere))
    old = tuple(
        replace(model, measured_on=str(first[0] / "merged")) for model in merge_request(first[1], tmp_path / "o").models
    )
    with pytest.raises(FingerprintMismatch, match="not on 'two measured_on"):
        merge(replace(request, models=old))
    renamed = (replace(request.models[0], name="three"), *request.models[1:])
    with pytest.raises(RequestError, match=r"head 'three': not in .*; one of two, five, number would be right"):
        merge(replace(request, models=renamed))
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_not_kept_cannot_be_measured(tasks: HeadedTasks, tmp_path: Path) -> None:
    wanted = CollectionRequest(
        str(tasks.models["two"]), "two", load_spec(tasks.data["two"]), head="two", root=tmp_path, device="cpu"
    )
    with pytest.raises(RequestError, match=r"head 'two': .* keeps no heads"):
        save_metadata(wanted)


def test_check_tells_what_is_wrong_with_heads(tasks: HeadedTasks, tmp_path: Path) -> None:
    def told(*overrides: str, **sections: Any) -> str:
        return "\n".join(problem.message for problem in find_problems(recipe(tasks, tmp_path, *overrides, **sections)))

    plain = {"merge": "average", "heads": "auto"}
    assert told(**plain) == ""
    assert "heads.from: average: classifier" in told("heads.from=average", **plain)
    assert "'surely*' is the name of no tensor" in told("heads.parameters=[surely*]", **plain)
    without = tasks.recipe(merge="average", output=str(tmp_path / "out"))
    del without["base"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(without))
    problems = "\n".join(problem.message for problem in find_problems(load_recipe(tmp_path / "bare.yaml")))
    assert "its head has another shape" in problems
    assert "`heads: auto` in the recipe" in problems
