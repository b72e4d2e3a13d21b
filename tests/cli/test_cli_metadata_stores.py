"""`mats metadata compress | export | proxy | from-optimizer` from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mats.cli.main import app
from mats.errors import RequestError
from mats.store import DataIdentity, LayerRecord, Manifest, ModelIdentity, SiteRecord, Sums, open_store, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One layer with an input Gram of 40 features."""
    rows = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    sums = Sums({"input_gram/layer": rows.T @ rows}, {"site:layer": 60.0}, {}, ["a", "b"])
    manifest = Manifest(
        model=ModelIdentity("paws", "runs/paws", None, "xxh3_128:1"),
        data=DataIdentity("paws", "validation", None),
        estimator={"labels": "empirical", "loss": "mean"},
        examples=2,
        example_ids=("a", "b"),
        sites=(SiteRecord("layer", "gram", 40, False),),
        layers=(LayerRecord("layer", "linear", "layer.weight", None, "layer", "out_in", 3),),
        parameters=(),
        uncovered={},
        tokens=sums.tokens,
        fourth_moments={},
    )
    write_store(tmp_path / "store", manifest, sums, {})
    return tmp_path / "store"


@pytest.fixture
def on_the_hub(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub id of the store, in a cache as `snapshot_download` lays it out, and no network."""
    import huggingface_hub.constants

    home = tmp_path / "cache" / "models--someone--paws-metadata"
    shutil.copytree(store, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return "someone/paws-metadata"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect_takes_the_hub_id_of_a_store(on_the_hub: str) -> None:
    for source in (on_the_hub, f"{on_the_hub}@main"):
        told = json.loads(run("inspect", source, "--json"))
        assert (told["kind"], told["model"], told["examples"]) == ("metadata store", "paws", 2)


def test_compress_tells_the_loss(store: Path, tmp_path: Path) -> None:
    text = run("metadata", "compress", store, "-o", tmp_path / "small", "--format", "float8")
    assert "relative error 0.0" in text
    assert "input_gram" in text
    told = json.loads(run("metadata", "compress", store, "-o", tmp_path / "half", "--json"))
    assert told["format"] == "bfloat16"
    assert told["bytes_after"] < 0.6 * told["bytes_before"]
    assert told["statistics"][0]["worst_name"] == "layer"
    assert "float8, relative error at most" in run("inspect", tmp_path / "small")
    assert "whole" in run("metadata", "verify", tmp_path / "small", tmp_path / "half")


def test_export_makes_a_folder_that_verifies(store: Path, tmp_path: Path) -> None:
    text = run("metadata", "export", store, "-o", tmp_path / "out", "--license", "mit", "--repo-id", "me/paws")
    assert "hf upload me/paws" in text
    assert "metadata: me/paws" in (tmp_path / "out" / "README.md").read_text()
    assert "whole" in run("metadata", "verify", tmp_path / "out")
    assert open_store(tmp_path / "out").manifest.model.source == "paws"
    for option, value in (("--license", "My License"), ("--repo-id", "paws")):
        with pytest.raises(RequestError, match=f"{option} '{value}': .* would be right"):
            run("metadata", "export", store, "-o", tmp_path / "other", option, value)


def test_proxy_and_moments_without_data(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    model.save_pretrained(tmp_path / "task")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    command = ("metadata", "proxy", "--base", tmp_path / "base", "--model", tmp_path / "task", "-o", tmp_path / "p")
    assert json.loads(run(*command, "--json"))["proxy"] == "task_vector_gram"
    state = (
        "metadata",
        "from-optimizer",
        tmp_path / "optimizer.pt",
        "--model",
        tmp_path / "task",
        "-o",
        tmp_path / "o",
    )
    assert "a proxy (adam_second_moment)" in run(*state)
    shown = run("inspect", tmp_path / "p")
    assert "proxy: task_vector_gram" in shown
    assert "examples: none" in shown


@pytest.mark.parametrize("command", ["compress", "export"])
def test_a_copy_never_replaces_its_store(store: Path, command: str) -> None:
    before = sorted((item.name, item.read_bytes()) for item in store.iterdir())
    for output in (store, store.parent):
        with pytest.raises(RequestError, match=r"input.*would be lost; choose another output"):
            run("metadata", command, store, "-o", output, "--overwrite")
    assert sorted((item.name, item.read_bytes()) for item in store.iterdir()) == before


def test_inspect_counts_what_is_not_covered_by_reason(store: Path) -> None:
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["uncovered"] = {"norm.bias": "no rule", "norm.weight": "no rule", "gate": "asked by name"}
    path.write_text(json.dumps(manifest))
    assert "uncovered: norm.bias and 1 more (no rule); gate (asked by name)\n" in run("inspect", store)
    assert json.loads(run("inspect", store, "--json"))["uncovered"] == manifest["uncovered"]


def test_a_file_in_the_place_of_a_store_is_told_as_such(store: Path) -> None:
    with pytest.raises(RequestError, match=r"manifest\.json: is a file; the folder of a metadata store"):
        run("metadata", "compress", store / "manifest.json", "-o", store.parent / "other")


def test_a_copy_that_is_no_smaller_says_so(store: Path) -> None:
    told = run("metadata", "compress", store, "-o", store.parent / "same", "--format", "low_rank:1000")
    assert "nothing has shrunk" in told
