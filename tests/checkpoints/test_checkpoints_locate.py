"""From what a user wrote to files, or to one line that says what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mats.checkpoints import open_checkpoint
from mats.errors import CheckpointCorrupt, RequestError


def test_a_missing_path_suggests_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "quartz").mkdir()
    with pytest.raises(RequestError, match=r"quarz: no such file or folder; nearest: .*/quartz$"):
        open_checkpoint(tmp_path / "quarz")
    with pytest.raises(RequestError, match=r"quarz/model: no such file or folder; nearest: .*/quartz$"):
        open_checkpoint(str(tmp_path / "quarz" / "model"))


def test_a_hub_id_that_is_not_cached_says_that_the_hub_was_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"^nobody/nothing: no such folder here, and not in the hub cache") as caught:
        open_checkpoint("nobody/nothing")
    assert "\n" not in str(caught.value)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RequestError, match=r"runs/first: no such file or folder"):
        open_checkpoint("runs/first")  # its parent is here: meant as a path, and the hub is not asked


def test_a_cached_hub_id_opens_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "models--someone--something"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    save_file({"w": torch.ones(2)}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("someone/something") as checkpoint:
        assert checkpoint.name == "someone/something"
        assert checkpoint.path.resolve() == snapshot.resolve()
        assert torch.equal(checkpoint.read("w"), torch.ones(2))


def test_paths_with_a_plus_or_an_at_sign_work(tmp_path: Path) -> None:
    folder = tmp_path / "a+b@c"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    with open_checkpoint(str(folder)) as checkpoint:
        assert checkpoint.name == "a+b@c"


@pytest.mark.parametrize(
    ("files", "error", "match"),
    [
        ([], RequestError, r"no weights here; expected one of model\.safetensors\.index\.json"),
        (["a.pt", "b.pt"], RequestError, r"several weight files \(a\.pt, b\.pt\).*name one of them"),
        (["model-00001-of-00002.safetensors"], CheckpointCorrupt, "no index file"),
    ],
)
def test_folders_without_clear_weights(tmp_path: Path, files: list[str], error: type[Exception], match: str) -> None:
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(error, match=match):
        open_checkpoint(tmp_path)


def test_one_shard_of_several_is_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"w": torch.ones(2)}, file)
    with pytest.raises(RequestError, match="one of 2 shards; give the folder"):
        open_checkpoint(file)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RequestError, match=r"notes\.txt: not a weight file"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_lone_weight_file_of_any_name_is_found_in_its_folder(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "best.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_configs_are_read_and_broken_ones_named(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == {"model_type": "bert"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointCorrupt, match=r"config\.json: not valid JSON"):
        open_checkpoint(tmp_path)


def test_an_adapter_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"base_model.model.x.lokr_w1": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR"}))
    with pytest.raises(RequestError, match="adapter type LOKR; supported are IA3 and LORA"):
        open_checkpoint(tmp_path)
