"""`mats train`: from a recipe to folders, in words and in JSON, and the ways in which it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_files import Ended

from mats.checkpoints import load_model

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))
import tiny_tasks

Run = Callable[..., Ended]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Two runs on a tiny base."""
    monkeypatch.chdir(tmp_path)
    tiny_tasks._save(tiny_tasks._untrained("bert"), "bert", tmp_path / "base")
    for seed, name in enumerate(("colour", "mood")):
        tiny_tasks._write_data("bert", tmp_path / "data", name, seed)
    path = tmp_path / "train.yaml"
    path.write_text(
        "base: base\ndevice: cpu\ntrain: {updates: 3, batch_size: 8, learning_rate: 1.0e-3}\n"
        "runs:\n  colour: data/colour.yaml\n  mood: {data: data/mood.yaml, train: {tuning: lora}}\n"
    )
    capsys.readouterr()  # the bar of saving the base is not what the command prints
    return path


def test_every_run_becomes_a_folder(run_mats: Run, recipe: Path) -> None:
    ended = run_mats("train", recipe)
    assert ended.status == 0, ended.err
    folders = [Path("exp_out/train") / name for name in ("colour", "mood")]
    lines = ended.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["colour", "mood"]
    assert all(line.endswith(f"updates; {folder}") for line, folder in zip(lines, folders, strict=True))
    for folder in folders:
        load_model(folder, "text_classification")
    assert "update 3: colour" in ended.err
    assert "train_runtime" not in ended.out + ended.err  # Trainer's own log
    assert "%|" not in ended.err  # transformers' own bars


def test_json_tells_scores_and_a_second_time_nothing_is_trained(run_mats: Run, recipe: Path) -> None:
    first = run_mats("train", recipe, "--run", "colour", "--json", "train.updates=2").value
    again = run_mats("train", recipe, "--run", "colour", "--json", "train.updates=2").value
    assert first == again
    (result,) = first["runs"]
    assert result["results"]["colour"]["metric"] == "accuracy"
    assert result["score"] == result["results"]["colour"]["value"]


def test_a_dry_run_tells_the_sizes_and_writes_nothing(run_mats: Run, recipe: Path) -> None:
    ended = run_mats("train", recipe, "--dry-run", "train.micro_batch_size=2")
    assert ended.status == 0
    first, second = ended.out.splitlines()
    assert first.startswith(
        "colour: full tuning of base on 96 examples, 3 updates of 8 = 2 × 4 accumulated × 1 processes"
    )
    assert "mood: lora tuning" in second
    planned = run_mats("train", recipe, "--dry-run", "--json").value["runs"]
    assert [run["accumulation"] for run in planned] == [1, 1]
    assert not Path("exp_out").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train.rate=1"], 2, "unknown key 'rate'"),
        (["--run", "nope"], 2, "run 'nope': not in the recipe; one of colour, mood would be right"),
        (["base=nowhere"], 2, "nowhere"),
        (["train.batch_size=6", "train.micro_batch_size=4"], 2, "is no multiple of micro_batch_size 4 × 1 processes"),
        (["runs.mood.data=[data/gone.yaml]"], 2, "runs.mood: data/gone.yaml: no such file"),
        (["runs.mood.train.split=dev"], 2, "runs.mood: dataset mood: no split 'dev'"),
        (["train.tuning={method: lora, modules: [nothing]}"], 2, "'nothing' is the ending of no linear layer"),
        (["what"], 2, "argument 'what': not understood"),
    ],
)
def test_wrong_requests_end_in_one_line(
    run_mats: Run, recipe: Path, arguments: list[str], status: int, message: str
) -> None:
    ended = run_mats("train", recipe, *arguments)
    assert ended.status == status
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("mats: ")
    assert not Path("exp_out/train/mood").exists()


def test_another_result_in_the_way_is_told_and_replaced_when_asked(run_mats: Run, recipe: Path) -> None:
    assert run_mats("train", recipe, "--run", "colour").status == 0
    refused = run_mats("train", recipe, "--run", "colour", "train.seed=4", "--json")
    assert refused.status == 2
    assert refused.value["kind"] == "OutputExists"
    assert "made with seed 0, wanted 4" in refused.value["error"]
    assert run_mats("train", recipe, "--run", "colour", "train.seed=4", "--overwrite").status == 0
    report = json.loads(Path("exp_out/train/colour/training.json").read_text())
    assert report["settings"]["seed"] == 4
