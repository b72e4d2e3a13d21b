"""The two steps by the commands alone, on real models: measured, merged, evaluated, interrupted, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_tasks import TinyFamily

from mats.cli import main as cli
from mats.recipes import load_recipe
from mats.recipes.requests import metadata_folder

Capture = pytest.CaptureFixture[str]


def write_recipe(family: TinyFamily, folder: Path, store: str = "metadata") -> Path:
    curvature = {"examples": 32, "batch_size": 16, "store": store}
    data = family.recipe(output="out", device="cpu", curvature=curvature)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def run(capsys: Capture, *arguments: str) -> Any:
    """A command's JSON; it must have ended with 0."""
    capsys.readouterr()
    status = cli.main([*arguments, "--json"])
    value = json.loads(capsys.readouterr().out)
    assert status == 0, value
    return value


@pytest.fixture(scope="module")
def measured(tiny_family: Callable[[str], TinyFamily], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe whose stores are there; tests write elsewhere."""
    folder = tmp_path_factory.mktemp("measured")
    path = str(write_recipe(tiny_family("bert"), folder, store=str(folder / "metadata")))
    assert cli.main(["save-metadata", path, "--json"]) == 0
    return path


@pytest.mark.parametrize("kind", ["bert", "t5", "vit"])
def test_the_two_steps(
    kind: str,
    tiny_family: Callable[[str], TinyFamily],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write_recipe(tiny_family(kind), tmp_path))
    assert cli.main(["check", path]) == 2
    assert capsys.readouterr().err.count("run mats save-metadata on this recipe first") == 3

    plans = run(capsys, "save-metadata", path, "--dry-run")["plans"]
    assert [plan["state"] for plan in plans] == ["new", "new", "new"]
    assert not (tmp_path / "metadata").exists()
    stores = run(capsys, "save-metadata", path)["stores"]
    recipe = load_recipe(path)
    assert [store["metadata"] for store in stores] == [str(metadata_folder(recipe, model)) for model in recipe.models]
    again = run(capsys, "save-metadata", path, "--dry-run")["plans"]
    assert [plan["state"] for plan in again] == ["complete", "complete", "complete"]

    assert run(capsys, "check", path)["ok"]
    merged = run(capsys, "merge", path)
    assert merged["parameters"]["by_rule"]["kfac"] > 0
    assert merged["systems_solved"] > 0

    scores = run(capsys, "evaluate", path)
    by_name = {entry["name"]: entry for entry in scores["models"]}
    assert set(by_name) == {*(model.name for model in recipe.models), "merged"}
    assert len(by_name["merged"]["results"]) == 3
    together = by_name["merged"]["results"]
    shares = [together[model.name]["value"] / by_name[model.name]["mean"] for model in recipe.models]
    assert by_name["merged"]["mean_relative"] == pytest.approx(sum(shares) / 3)
    assert json.loads((tmp_path / "out" / "scores-test.json").read_text())["models"] == scores["models"]

    data = str(tiny_family(kind).tasks[0].data)
    alone = run(capsys, "evaluate", "--model", "out", "--data", data, "--device", "cpu", "--predictions", "predictions")
    assert alone["models"][0]["results"]["colour"] == by_name["merged"]["results"]["colour"]
    assert list((tmp_path / "predictions").rglob("*.jsonl"))
    assert run(capsys, "metadata", "verify", *(store["metadata"] for store in stores))["ok"]
    assert run(capsys, "inspect", stores[0]["metadata"])["examples"] == 32


def test_halves_added_are_the_whole(
    tiny_family: Callable[[str], TinyFamily], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write_recipe(tiny_family("bert"), tmp_path))
    halves = []
    for part in (0, 1):
        (store,) = run(capsys, "save-metadata", path, "--model", "mood", f"curvature.fold=[{part}, 2]")["stores"]
        halves.append(store["metadata"])
    assert run(capsys, "metadata", "add", *halves, "-o", "whole")["examples"] == 32
    assert run(capsys, "metadata", "verify", "whole")["ok"]
    run(capsys, "save-metadata", path, "--model", "colour", "--model", "size")
    assert run(capsys, "merge", path, "models.mood.metadata=whole")["systems_solved"] > 0


def test_a_store_of_another_model_is_refused(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    mood = metadata_folder(load_recipe(measured), load_recipe(measured).model_named("mood"))
    assert cli.main(["merge", measured, f"models.size.metadata={mood}"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "size" in line
    assert "mood" in line
    assert not (tmp_path / "out").exists()


def test_strict_ends_with_4_and_keeps_the_output(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    solver = ["merge.solver.name=cg", "merge.solver.max_iterations=1", "merge.solver.tolerance=1e-12"]
    assert cli.main(["merge", measured, "strict", *solver, "--strict"]) == 4
    assert "missed their tolerance" in capsys.readouterr().err
    assert (tmp_path / "strict" / "model.safetensors").is_file()
    assert run(capsys, "merge", measured, "lenient", *solver)["unconverged"]


def test_a_killed_merge_is_finished_by_the_same_command(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "merge", measured, "whole")
    kill = (
        "import os, signal\n"
        "from mats.checkpoints import CheckpointWriter\n"
        "from mats.cli.main import main\n"
        "write, count = CheckpointWriter.write, [0]\n"
        "def dying(self, *arguments, **options):\n"
        "    count[0] += 1\n"
        "    if count[0] > 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(self, *arguments, **options)\n"
        "CheckpointWriter.write = dying\n"
        f"main(['merge', {measured!r}, 'out'])\n"
    )
    assert subprocess.run([sys.executable, "-c", kill], cwd=tmp_path, capture_output=True, check=False).returncode == -9
    assert not (tmp_path / "out").exists()
    run(capsys, "merge", measured, "out")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
