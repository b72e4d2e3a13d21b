"""`mats sweep` and `mats report` as a user meets them: listing, refusing, running, reporting."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_files import Ended

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))

from tiny_tasks import TinyFamily, build_family

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    return build_family("vit", tmp_path_factory.mktemp("sweep") / "vit")


@pytest.fixture
def sweep(family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recipe = family.recipe(merge="task_arithmetic", device="cpu", evaluate={"examples": 8})
    value = {"recipe": recipe, "axes": {"merge.scale": [0.2, 0.5]}, "output": "out"}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def test_a_dry_run_lists_the_points_and_does_nothing(sweep: Path, run_mats: Run) -> None:
    ended = run_mats("sweep", sweep, "--dry-run", "axes.merge.scale=[0.1, 0.2, 0.3]", "--shard", "1/2")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert [line.split(" [")[0] for line in lines[:2]] == ["1: scale=0.1", "3: scale=0.3"]
    assert lines[-1] == "2 points by 2 merges, 2 points to do; 0 stores to measure; results in out"
    assert not Path("out").exists()


def test_a_sweep_and_its_report_again(sweep: Path, run_mats: Run) -> None:
    ended = run_mats("sweep", sweep, "--json")
    assert ended.status == 0, ended.err
    assert (ended.value["done"], ended.value["failed"], ended.value["missing"]) == (2, [], 0)
    assert len(ended.value["selected"]) == 1
    page = Path("out/report.html").read_bytes()
    assert b"<svg" in page
    Path("out/report.html").unlink()
    again = run_mats("report", "out", "--json")
    assert again.status == 0
    assert again.value["files"] == ended.value["files"]
    assert Path("out/report.html").read_bytes() == page
    assert "1: scale=0.2 [done]" in run_mats("sweep", sweep, "--dry-run").out


def test_a_failing_point_ends_with_1_after_the_others(sweep: Path, run_mats: Run) -> None:
    ended = run_mats("sweep", sweep, "axes.merge.scale=[0.2, .1e39]", "dtype=float16")
    assert ended.status == 1
    assert "1 of 2 points done" in ended.out
    assert "point 2 failed: " in ended.out
    assert "selected: point 1" in ended.out


def test_shards_and_collect(sweep: Path, run_mats: Run) -> None:
    assert run_mats("sweep", sweep, "--shard", "1/2").status == 0
    assert not Path("out/report.html").exists()
    early = run_mats("sweep", sweep, "--collect")
    assert early.status == 1
    assert "1 points are not finished" in early.out
    assert run_mats("sweep", sweep, "--shard", "2/2").status == 0
    assert run_mats("sweep", sweep, "--collect").status == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["report.split=validation"], "the split that points are selected on"),
        (["--shard", "0/2"], "--shard 0/2: i/n with i from 1 to n would be right"),
        (["--shard", "1/2", "--collect"], "--shard and --collect: one of them at a time"),
        (["--launcher", "slurm"], "--launcher slurm: not known; submitit would be right"),
        (["--keep", "some"], 'keep: received "some"'),
        (["select.split=nothing"], "no split 'nothing'"),
        (["extra"], "argument 'extra': not understood"),
    ],
)
def test_wrong_requests_end_with_2_and_a_line(sweep: Path, run_mats: Run, arguments: list[str], line: str) -> None:
    ended = run_mats("sweep", sweep, *arguments)
    assert ended.status == 2
    assert line in ended.err
    assert all(shown.startswith("mats: ") for shown in ended.err.splitlines())
    assert not Path("out").exists()


def test_several_merges_are_told_apart_by_their_recipes(sweep: Path, run_mats: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(sweep.read_text())["recipe"]))
    for scale in (0.2, 0.4):
        assert run_mats("merge", recipe, f"out{scale}", f"merge.scale={scale}").status == 0
    assert (
        run_mats("evaluate", recipe, "output=out0.2", "evaluate.split=validation", "evaluate.examples=null").status == 0
    )
    ended = run_mats("report", "out0.2", "out0.4", "-o", "both", "--json")
    assert ended.status == 0, ended.err
    header, first, second = Path("both/points.csv").read_text().splitlines()
    named: list[dict[str, Any]] = [dict(zip(header.split(","), row.split(","), strict=True)) for row in (first, second)]
    assert [row["merge.scale"] for row in named] == ["0.2", "0.4"]
    assert float(named[0]["validation.mean"]) > 0
    assert named[1]["validation.mean"] == ""
    assert json.loads(Path("out0.2/report.json").read_text())["method"] == "task_arithmetic"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere", "-o", "x"], "nowhere: holds no merge (no report.json)"),
        (["nowhere"], "--output: missing"),
    ],
)
def test_reports_on_nothing_are_refused(
    run_mats: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_mats("report", *arguments)
    assert ended.status == 2
    assert line in ended.err
