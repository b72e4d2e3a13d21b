"""Sweeps of tiny models, for real: points, selection and report, kills, shards, failures, and what stays on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from safetensors.torch import load_file
from tiny_tasks import TinyFamily
from torch.testing import assert_close

from mats.progress import Silent
from mats.recipes import load_recipe, recipe_from
from mats.recipes.requests import merge_request
from mats.recipes.scoring import evaluation_settings, recipe_scorings, run_scorings
from mats.sweeps import collect_sweep, gather_sweep, load_sweep, measuring, run_sweep, working
from mats.sweeps.folder import SweepFolder
from mats.sweeps.measuring import Measurements

Write = Callable[..., Path]
COST = ["merge_seconds", "peak_memory_bytes"]
ITERATED = {"method": "mats", "init": "average", "anchor": 0.01, "damping": 0, "solver": {"name": "cg"}}


def points_table(output: Path) -> pandas.DataFrame:
    return pandas.read_parquet(output / "points.parquet")


def scores_table(output: Path) -> pandas.DataFrame:
    return pandas.read_parquet(output / "scores.parquet").drop(columns=COST)


@pytest.fixture(autouse=True)
def _light_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of a tiny merge, and have their own tests."""
    from mats.reporting import sweep_writer, writer

    monkeypatch.setattr(writer, "plot_layers", lambda *_args, **_options: None)
    monkeypatch.setattr(sweep_writer, "_plots", lambda _results: [])


def test_a_point_is_what_merge_and_evaluate_give(write_sweep: Write, tmp_path: Path) -> None:
    from mats.engine import merge

    path = write_sweep(merge="ties", axes={"merge.density": [0.2, 0.6], "merge.scale": [1.0]}, keep="all")
    outcome = run_sweep(load_sweep(path))
    assert (outcome.done, outcome.failed, outcome.missing) == (2, (), 0)
    recipe = recipe_from(yaml.safe_load(path.read_text())["recipe"], ["merge.density=0.6", "merge.scale=1.0"])
    alone = merge(merge_request(recipe, tmp_path / "alone")).path
    second = load_sweep(path).points[1]
    place = SweepFolder(outcome.output).point(second.digest)
    assert_close(load_file(place.merged / "model.safetensors"), load_file(alone / "model.safetensors"))
    scores = run_scorings(recipe_scorings(recipe, alone), evaluation_settings(recipe, split="validation"))
    found = place.scores("validation")
    assert found is not None
    for mine, theirs in zip(found["models"], json.loads(json.dumps(scores["models"])), strict=True):
        theirs.pop("differences", None)  # needs both models' predictions at once
        assert {**mine, "path": theirs["path"]} == theirs
    repeated = load_recipe(place.path / "recipe.yaml")
    assert repeated.output == str(place.merged)
    assert repeated.model_copy(update={"output": None}) == second.recipe


def test_selection_reads_one_split_and_reports_another(write_sweep: Write) -> None:
    path = write_sweep(axes={"merge.scale": [0.05, 0.5, 0.9]})
    outcome = run_sweep(load_sweep(path))
    table = points_table(outcome.output)
    best = int(table["validation.mean_relative"].astype(float).idxmax()) + 1
    assert outcome.selected == (best,)
    assert list(table["selected"]) == [number == best for number in (1, 2, 3)]
    assert list(table["test.mean"].notna()) == [number == best for number in (1, 2, 3)]
    kept = [point.number for point in load_sweep(path).points if _merged(outcome.output, point.digest).is_dir()]
    assert kept == [best]
    page = (outcome.output / "report.html").read_text()
    assert "Split test was scored for the selected points alone, after the selection." in page
    assert not re.search(r"""(src|href|url)\W{1,3}https?:""", page), "nothing is fetched"


def _merged(output: Path, digest: str) -> Path:
    return SweepFolder(output).point(digest).merged


@pytest.mark.parametrize("keep", ["all", "none"])
def test_what_stays_on_disk(write_sweep: Write, keep: str) -> None:
    path = write_sweep(axes={"merge.scale": [0.3, 0.5]}, keep=keep)
    loaded = load_sweep(path)
    run_sweep(loaded)
    assert [_merged(loaded.output, point.digest).is_dir() for point in loaded.points] == [keep == "all"] * 2
    assert points_table(loaded.output)["test.mean"].notna().sum() == 1
    before = scores_table(loaded.output)
    run_sweep(loaded)
    pandas.testing.assert_frame_equal(scores_table(loaded.output), before)


def test_finished_points_are_not_made_again(
    write_sweep: Write, monkeypatch: pytest.MonkeyPatch, tiny_bert: TinyFamily, tmp_path: Path
) -> None:
    merged = []
    original = working.merge_into

    def counted(*args: Any) -> None:
        merged.append(1)
        original(*args)

    monkeypatch.setattr(working, "merge_into", counted)
    shutil.copytree(tiny_bert.tasks[0].model, tmp_path / "copy")
    path = write_sweep(axes={"merge.scale": [0.3, 0.5]}, select={"per": "merge.scale"})
    texts = [f"models.colour.path={tmp_path / 'copy'}"]
    run_sweep(load_sweep(path, texts))
    assert len(merged) == 2
    run_sweep(load_sweep(path, texts))
    assert len(merged) == 2
    run_sweep(load_sweep(path, [*texts, "axes.merge.scale=[0.3, 0.5, 0.7]"]))
    assert len(merged) == 3, "points found by what they are, not by where they stand"
    os.utime(tmp_path / "copy" / "model.safetensors", ns=(1, 1))
    run_sweep(load_sweep(path, texts))
    assert len(merged) == 5, "a model that has changed makes its points anew"


def test_iterations_come_from_one_solve(write_sweep: Write, tmp_path: Path) -> None:
    from mats.engine import merge

    path = write_sweep(merge=ITERATED, axes={"merge.solver.max_iterations": [8, 1, 3]}, keep="all")
    loaded = load_sweep(path)
    outcome = run_sweep(loaded)
    assert points_table(outcome.output)["made_by"].nunique() == 1
    weights = []
    for point in loaded.points:
        recipe = point.recipe.model_copy(update={"output": str(tmp_path / f"alone{point.number}")})
        alone = load_file(merge(merge_request(recipe)).path / "model.safetensors")
        weights.append(load_file(_merged(outcome.output, point.digest) / "model.safetensors"))
        assert_close(weights[-1], alone)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert (weights[0][name] - weights[1][name]).abs().max() > 1e-3, "one iteration is not eight"


def test_killed_at_every_moment_and_taken_up_again(write_sweep: Write, tmp_path: Path) -> None:
    axes = {"merge.solver.max_iterations": [1, 4], "merge.off_diagonal": [0.5, 1.0]}
    calm = write_sweep(merge=ITERATED, axes=axes, name="calm.yaml", output=str(tmp_path / "calm"))
    run_sweep(load_sweep(calm))
    path = write_sweep(merge=ITERATED, axes=axes)
    script = Path(__file__).with_name("killed_sweeps.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    assert [len(finished.split(",")) if finished else 0 for _, _, finished in ends] == [0, 0, 2, 4, 4]
    pandas.testing.assert_frame_equal(scores_table(tmp_path / "out"), scores_table(tmp_path / "calm"))


def test_shards_are_the_whole(write_sweep: Write, tmp_path: Path) -> None:
    axes = {"merge.scale": [0.2, 0.4, 0.6], "merge.method": ["task_arithmetic"]}
    whole = load_sweep(write_sweep(axes=axes, name="whole.yaml", output=str(tmp_path / "whole")))
    run_sweep(whole)
    parts = load_sweep(write_sweep(axes=axes))
    first = run_sweep(parts, (2, 2))
    assert (first.points, first.done) == (1, 1)
    early = collect_sweep(parts)
    assert early.missing == 2
    assert points_table(parts.output)["state"].tolist() == ["missing", "done", "missing"]
    assert "test.mean" not in points_table(parts.output), "the reported split is not read while points are missing"
    run_sweep(parts, (1, 2))
    outcome = collect_sweep(parts)
    assert outcome.missing == 0
    pandas.testing.assert_frame_equal(scores_table(parts.output), scores_table(whole.output))


def test_a_point_that_fails_is_told_and_the_others_go_on(write_sweep: Write) -> None:
    variants = [
        {"name": "good", "set": {"merge.method": "average"}},
        {"name": "bad", "set": {"merge.method": "mats", "merge.solver.name": "direct"}},
    ]
    path = write_sweep(axes={"method": variants})
    outcome = run_sweep(load_sweep(path))
    assert (outcome.done, outcome.missing, outcome.selected) == (1, 0, (1,))
    ((number, error),) = outcome.failed
    assert number == 2
    assert "solver direct has no closed form" in error
    assert points_table(outcome.output)["error"].fillna("").tolist() == ["", error]
    assert "1 of 2 points failed" in (outcome.output / "report.html").read_text()


def test_two_runs_share_the_work(write_sweep: Write) -> None:
    from mats.files import exclusive

    loaded = load_sweep(write_sweep(axes={"merge.scale": [0.3, 0.5]}))
    with exclusive(SweepFolder(loaded.output).point(loaded.points[0].digest).lock):
        outcome = run_sweep(loaded)
        assert (outcome.done, outcome.missing) == (1, 1)
    assert run_sweep(loaded).missing == 0


def test_shards_that_ask_for_one_store_together_measure_it_once(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mats.engine

    working_now, most, measured = [0], [0], []

    def slow(request: Any, _progress: Any) -> None:
        from mats.engine.collection import collection_folder

        working_now[0] += 1
        most[0] = max(most[0], working_now[0])
        folder = tmp_path / str(collection_folder(request))
        if not folder.is_dir():
            time.sleep(0.05)
            folder.mkdir(parents=True, exist_ok=True)
            measured.append(request.name)
        working_now[0] -= 1

    monkeypatch.setattr(mats.engine, "save_metadata", slow)
    path = write_sweep(merge="mats", axes={"merge.anchor": [0.1]})
    recipe = load_sweep(path, [f"curvature.store={tmp_path / 'store'}"]).points[0].recipe
    recipe = recipe.model_copy(update={"models": recipe.models[:1]})

    def ensure() -> None:
        threads = [threading.Thread(target=Measurements().ensure, args=(recipe, Silent())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ensure()
    assert (measured, most[0]) == (["colour"], 1)
    shutil.rmtree(tmp_path / "store")
    from contextlib import nullcontext

    monkeypatch.setattr(measuring, "exclusive", lambda *_args, **_options: nullcontext())
    ensure()
    assert most[0] > 1, "without the lock they would have measured side by side"


def test_results_are_read_back_from_the_folder(write_sweep: Write) -> None:
    loaded = load_sweep(write_sweep(axes={"models": {"subsets": [1, 2]}}, select={"per": "models.count"}))
    outcome = run_sweep(loaded)
    results = gather_sweep(outcome.output)
    assert results.axes == ("models", "models.count")
    assert [point.columns["models.count"] for point in results.chosen] == [1, 2]
    table = pandas.read_csv(outcome.output / "scores.csv")
    assert set(table.columns) >= {
        "point",
        "models",
        "models.count",
        "split",
        "dataset",
        "metric",
        "value",
        "interval_low",
    }
    assert len(table[table["split"] == "validation"]) == 3 * 1 + 3 * 2
    assert json.loads((outcome.output / "sweep.json").read_text())["axes"] == ["models", "models.count"]
