"""What a recipe leaves to the metadata, by the commands alone: damping by halves, task-vector scales, snapshots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny_tasks import TinyFamily

from mats.cli import main as cli
from mats.reporting import validate_report

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recipe(tiny_family: Callable[[str], TinyFamily], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe with the stores of all examples and of the first half of them."""
    folder = tmp_path_factory.mktemp("left_to_metadata")
    path = tiny_family("bert").write_recipe(folder)
    assert cli.main(["save-metadata", str(path), "--json"]) == 0
    assert cli.main(["save-metadata", str(path), "curvature.fold=[0,2]", "--json"]) == 0
    return str(path)


@pytest.fixture(autouse=True)
def light_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """report.json alone, checked as the whole report would be."""

    def write(report: dict[str, object], folder: Path, **_: object) -> list[str]:
        validate_report(report)
        (folder / "report.json").write_text(json.dumps(report))
        return ["report.json"]

    monkeypatch.setattr("mats.engine.merging.write_report", write)


def test_damping_is_chosen_half_against_half(recipe: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["merge", recipe, str(tmp_path / "out"), "merge.cross_validate=damping"]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("with curvature.fold=[1,2] first") == 3
    assert cli.main(["save-metadata", recipe, "curvature.fold=[1,2]"]) == 0
    assert cli.main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = report["cross_validation"]
    assert found["setting"] == "damping"
    assert len(found["risks"]) == len(found["values"]) == 8
    assert min(found["risks"]) < found["start"]
    assert report["settings"]["damping"] == found["chosen"] in found["values"]
    written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert written["merge"]["cross_validate"] == "damping"  # what was asked for, so that it can be asked again


def test_scales_and_snapshots_by_overrides(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "scaled"
    assert cli.main(["merge", recipe, str(out), "merge.method=task_arithmetic", "merge.scale=auto"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert len(report["scales"]["overall"]) == 3
    assert any(note.startswith("scales of least predicted loss") for note in report["notes"])
    out = tmp_path / "kept"
    solver = ["merge.solver.name=cg", "merge.solver.max_iterations=6", "merge.solver.snapshots=[2,4]"]
    assert cli.main(["merge", recipe, str(out), *solver]) == 0
    assert sorted(path.name for path in (out / "snapshots").iterdir()) == ["2", "4"]
    assert cli.main(["predict", recipe, str(out), *(str(out / "snapshots" / n) for n in ("2", "4"))]) == 0


def test_snapshots_without_iterations_end_with_2(recipe: str, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["merge", recipe, str(tmp_path / "out"), "merge.solver.snapshots=[2]"]) == 2
    assert "name: cg or pcg would be right" in capsys.readouterr().err
