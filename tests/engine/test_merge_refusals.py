"""Bad input: one clear line, the right exit status, nothing left behind, nothing lost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family, make_model, save
from safetensors.torch import load_file, save_file

from mats.engine import MergeRequest, ModelInput, Rule, merge, plan_merge
from mats.errors import (
    CheckpointCorrupt,
    FingerprintMismatch,
    InputsMismatch,
    MatsError,
    NonFiniteWeights,
    NotConverged,
    OutOfSpace,
    OutputExists,
    RequestError,
)
from mats.methods import AverageSettings, FisherSettings, MatsSettings, RegMeanSettings, SolverChoice

pytestmark = pytest.mark.usefixtures("light_report")


@pytest.fixture
def wanted(bert: Family, tmp_path: Path) -> MergeRequest:
    return MergeRequest(bert.inputs(), MatsSettings(), tmp_path / "out", base=str(bert.base), device="cpu")


def refused(request: MergeRequest, error: type[MatsError], status: int, message: str) -> None:
    """`merge` raises, in one line, and leaves the output's parent as it was."""
    before = set(request.output.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        merge(request)
    assert caught.value.exit_status == status
    assert "\n" not in str(caught.value)
    assert set(request.output.parent.iterdir()) == before


def test_store_of_another_model(wanted: MergeRequest) -> None:
    first, second, third = wanted.models
    swapped = (replace(first, metadata=second.metadata), second, third)
    refused(replace(wanted, models=swapped), FingerprintMismatch, 3, r"measured on 'model1'.*not on 'task0'")


def test_no_metadata(wanted: MergeRequest) -> None:
    models = (replace(wanted.models[0], metadata=None), *wanted.models[1:])
    refused(replace(wanted, models=models), RequestError, 2, "model task0: method mats needs metadata.*save-metadata")
    merge(replace(wanted, models=models, method=MatsSettings(fallback=("identity",))))  # needs none


def test_missing_store(wanted: MergeRequest, tmp_path: Path) -> None:
    models = (replace(wanted.models[0], metadata=tmp_path / "nowhere"), *wanted.models[1:])
    refused(replace(wanted, models=models), RequestError, 2, "nowhere: no such metadata store")


def test_other_architecture(wanted: MergeRequest, t5: Family) -> None:
    models = (*wanted.models, ModelInput("other", str(t5.models[0])))
    refused(
        replace(wanted, models=models, method=AverageSettings()), InputsMismatch, 3, "is a t5, the base base a bert"
    )


def test_other_vocabulary(wanted: MergeRequest, bert: Family, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(bert.models[0], folder)
    state = load_file(folder / "model.safetensors")
    state["bert.embeddings.word_embeddings.weight"] = torch.zeros(41, 16)
    save_file(state, folder / "model.safetensors")
    models = (ModelInput("grown", str(folder)), *wanted.models[1:])
    refused(replace(wanted, models=models, method=AverageSettings()), InputsMismatch, 3, "41 rows.*--vocab")


def broken(bert: Family, folder: Path) -> Path:
    shutil.copytree(bert.models[1], folder)
    return folder / "model.safetensors"


def test_nan_weights(wanted: MergeRequest, bert: Family, tmp_path: Path) -> None:
    file = broken(bert, tmp_path / "nan")
    state = load_file(file)
    state["bert.pooler.dense.weight"][0, 0] = float("nan")
    save_file(state, file)
    models = (wanted.models[0], ModelInput("nan", str(tmp_path / "nan")))
    request = replace(wanted, models=models, method=AverageSettings())
    refused(request, NonFiniteWeights, 1, r"bert\.pooler\.dense\.weight holds nan")


def test_truncated_file(wanted: MergeRequest, bert: Family, tmp_path: Path) -> None:
    file = broken(bert, tmp_path / "short")
    file.write_bytes(file.read_bytes()[:-100])
    models = (wanted.models[0], ModelInput("short", str(tmp_path / "short")))
    refused(replace(wanted, models=models, method=AverageSettings()), CheckpointCorrupt, 1, "model.safetensors")


def test_missing_model_and_base(wanted: MergeRequest, tmp_path: Path) -> None:
    models = (ModelInput("gone", str(tmp_path / "gone")), *wanted.models[1:])
    refused(replace(wanted, models=models), RequestError, 2, "gone")
    refused(replace(wanted, base=None), RequestError, 2, "method mats with init tsv_m: needs a base model")


def test_output_exists(wanted: MergeRequest) -> None:
    wanted.output.mkdir()
    (wanted.output / "mine").write_text("keep")
    refused(wanted, OutputExists, 2, "exists already")
    assert (wanted.output / "mine").read_text() == "keep"
    merge(replace(wanted, overwrite=True, method=AverageSettings()))
    assert not (wanted.output / "mine").exists()


def test_no_space(wanted: MergeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OutOfSpace, match=r"needs .* GB more"):
        merge(wanted)
    assert not wanted.output.exists()


def test_a_layer_over_the_budget_is_refused_in_the_plan(wanted: MergeRequest) -> None:
    refused(replace(wanted, memory_budget=1000), OutOfSpace, 1, "needs .* bytes to be solved.*--memory-budget")


def test_unknown_device(wanted: MergeRequest) -> None:
    refused(replace(wanted, device="cuda:99"), RequestError, 2, "cuda:99.*not here")
    refused(replace(wanted, device="quantum"), RequestError, 2, "'quantum' is unknown")


def test_negative_weight_of_a_quadratic(wanted: MergeRequest) -> None:
    models = (replace(wanted.models[0], weight=-1.0), *wanted.models[1:])
    with pytest.raises(RequestError, match=r"model task0: weight -1 with method mats; a number in \(0, ∞\)"):
        replace(wanted, models=models)


def test_strict_publishes_and_then_says_that_a_solve_missed(wanted: MergeRequest) -> None:
    hasty = MatsSettings(solver=SolverChoice(name="cg", max_iterations=1, tolerance=1e-8))
    with pytest.raises(NotConverged, match="missed their tolerance") as caught:
        merge(replace(wanted, method=hasty, strict=True))
    assert caught.value.exit_status == 4
    report = json.loads((wanted.output / "report.json").read_text())
    assert any(layer.get("stop_reason") == "iteration_limit" for layer in report["layers"])


def test_a_model_that_lacks_tensors(bert: Family, tmp_path: Path) -> None:
    """With a base its values stay, by name; without one there is nothing to put there."""
    folder = tmp_path / "headless"
    shutil.copytree(bert.models[0], folder)
    state = load_file(folder / "model.safetensors")
    state["surplus"] = state.pop("classifier.weight")
    save_file(state, folder / "model.safetensors")
    models = (ModelInput("headless", str(folder)), *bert.inputs()[1:])
    request = MergeRequest(models, AverageSettings(), tmp_path / "out", base=str(bert.base))
    report = merge(request).report
    assert report["missing"] == {"headless": ["classifier.weight"]}
    assert report["extra"] == {"headless": ["surplus"]}
    merged = load_file(request.output / "model.safetensors")
    assert torch.equal(merged["classifier.weight"], bert.base_state["classifier.weight"])
    without = replace(request, base=None, models=models[::-1], output=tmp_path / "other")
    refused(without, InputsMismatch, 3, "model headless lacks 1 tensors.*ones or copy, or a `base:` that has them")


def test_what_the_metadata_lack_is_named(bert: Family, tmp_path: Path) -> None:
    request = MergeRequest(bert.inputs(), FisherSettings(), tmp_path / "out", device="cpu")
    plan = plan_merge(request)
    assert plan.fallbacks["bert.pooler.dense.weight"] == "diagonal: task0: no diagonal"
    assert plan.by_rule.keys() == {"diagonal", "init"}
    rules = (Rule("bert.pooler.*", RegMeanSettings()),)
    assert plan_merge(replace(request, rules=rules)).by_rule.keys() == {"diagonal", "init", "input_gram"}


@pytest.mark.parametrize(("key", "value"), [("labels", "sampled"), ("loss", "sum"), ("position", 0.5)])
def test_stores_measured_differently_are_pointed_out(
    wanted: MergeRequest, bert: Family, tmp_path: Path, key: str, value: object
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(bert.stores[0], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["estimator"][key] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    models = (replace(wanted.models[0], metadata=folder), *wanted.models[1:])
    assert f"different {key}" in plan_merge(replace(wanted, models=models)).notes[0]


def test_an_unchanged_model_merges_into_itself(bert: Family, tmp_path: Path) -> None:
    """One model, or the base as a model: nothing pulls, nothing breaks."""
    save(make_model("bert", 0), tmp_path / "copy")
    request = MergeRequest(
        (ModelInput("copy", str(tmp_path / "copy")),),
        MatsSettings(fallback=("identity",)),
        tmp_path / "out",
        base=str(bert.base),
    )
    merge(request)
    merged = load_file(request.output / "model.safetensors")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, bert.base_state[name])


def test_an_output_over_what_is_merged(wanted: MergeRequest, tmp_path: Path) -> None:
    """`overwrite` replaces earlier results; a model, its store or the folder around them is never lost to it."""
    models = tuple(
        replace(model, path=str(shutil.copytree(model.path, tmp_path / "models" / model.name)))
        for model in wanted.models
    )
    for output in (tmp_path / "models" / models[1].name, tmp_path / "models"):
        over = replace(wanted, models=models, output=output, overwrite=True)
        refused(over, RequestError, 2, f"{output.name}: (is an input|holds the input .*), which would be lost")
    assert all((Path(model.path) / "model.safetensors").is_file() for model in models)
