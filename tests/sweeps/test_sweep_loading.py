"""A sweep file, its overrides and its recipe become points with recipes; all faults before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_tasks import TinyFamily

from mats.errors import MatsError, RecipeError, RequestError
from mats.recipes import load_recipe
from mats.sweeps.loading import load_sweep
from mats.sweeps.running import check_inputs, parse_shard, shard_groups

Write = Callable[..., Path]


def test_points_are_what_overrides_on_the_command_line_would_give(tiny_bert: TinyFamily, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_bert.recipe(merge="ties")))
    path = tmp_path / "sweep.yaml"
    axes = {"merge.scale": [0.5, 1], "merge.density": {"range": [0.1, 0.3, 2]}, "models.mood.weight": [2]}
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", "axes": axes}, sort_keys=False))
    points = load_sweep(path).points
    assert len(points) == 4
    for point in points:
        texts = [f"{key}={value}" for key, value in point.columns.items()]
        assert point.recipe == load_recipe(recipe, texts)
    assert len({point.digest for point in points}) == 4
    assert load_sweep(path).output == Path("exp_out/sweeps/sweep")


def test_a_method_on_an_axis_brings_its_own_keys_whatever_their_order(write_sweep: Write) -> None:
    variant = {"merge.init.scale": 0.7, "merge.init.method": "task_arithmetic", "merge.method": "mats"}
    (point,) = load_sweep(write_sweep(merge="ties", axes={"method": [{"name": "x", "set": variant}]})).points
    settings: Any = point.recipe.merge.settings
    assert (settings.name, settings.init.name, settings.init.scale) == ("mats", "task_arithmetic", 0.7)


def test_overrides_change_the_sweep_or_else_its_recipe(write_sweep: Write) -> None:
    path = write_sweep(axes={"merge.scale": [1]})
    loaded = load_sweep(path, ["axes.merge.scale=[2, 3]", "axes.seed={range: [1, 2, 2]}", "keep=all", "dtype=bfloat16"])
    assert [dict(point.columns) for point in loaded.points] == [
        {"merge.scale": scale, "seed": seed} for scale in (2, 3) for seed in (1, 2)
    ]
    assert loaded.sweep.keep == "all"
    assert {point.recipe.dtype for point in loaded.points} == {"bfloat16"}


def test_a_recipe_in_the_sweep_file_may_extend_another(tiny_bert: TinyFamily, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny_bert.recipe(merge={"method": "ties", "density": 0.4})))
    path = tmp_path / "sweep.yaml"
    recipe = {"extends": "base.yaml", "merge": {"zero_votes": "zero"}}
    path.write_text(yaml.safe_dump({"recipe": recipe, "axes": {"merge.scale": [1]}}))
    (point,) = load_sweep(path).points
    settings: Any = point.recipe.merge.settings
    assert (settings.density, settings.zero_votes) == (0.4, "zero")


def test_sets_of_models(write_sweep: Write) -> None:
    points = load_sweep(write_sweep(axes={"models": {"pairs": "unordered"}})).points
    assert [tuple(model.name for model in point.recipe.models) for point in points] == [
        ("colour", "size"),
        ("colour", "mood"),
        ("size", "mood"),
    ]


def test_the_digest_tells_results_apart_and_nothing_else(write_sweep: Write) -> None:
    def digest(*overrides: str) -> str:
        return load_sweep(path, overrides).points[0].digest

    path = write_sweep(axes={"merge.scale": [1]})
    first = digest()
    assert digest("keep=all", "device=cuda", "memory_budget=1GB", "select.metric=mean", "output=x") == first
    assert digest("axes.merge.scale=[1.0]", "axes.seed=[0]") == first
    for other in ("axes.merge.scale=[2]", "seed=1", "evaluate.examples=3", "curvature.examples=3", "dtype=float16"):
        assert digest(other) != first


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["report.split=validation"], "report.split: received 'validation', the split that points are selected on"),
        (["select.split=test"], "the split that points are selected on; .* another split would be right"),
        (["merge.scale=2"], r"merge.scale: is set by an axis of the sweep; axes.merge.scale=\[…\]"),
        (
            ["axes.evaluate.split=[test]"],
            "evaluate.split: is decided by the sweep itself; select.split and report.split",
        ),
        (["axes.output=[a]"], "axes: output: is decided by the sweep itself"),
        (["axes.merge.scal=[1]"], "axes: merge.scal: unknown key 'scal'; did you mean 'scale'?"),
        (["axes.merge.scale=[a]"], 'axes: merge.scale: received "a"; a number'),
        (["axes.split=[{name: a, set: {}}]"], "axes.split: tables have a column of that name"),
        (["kep=all"], "kep: neither a key of the sweep nor of its recipe; did you mean 'keep'?"),
        (["keep=some"], "keep: received \"some\"; 'best', 'all' or 'none' would be right"),
        (["select.per=[method]"], "select.per: no axis 'method'; one of merge.scale would be right"),
        (["evaluate.individual=false"], "select.metric: mean_relative compares with the models' own scores"),
        (["models.mood.data=null"], "models mood: no data"),
        (["models.mood.data=nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_faults_before_any_work(write_sweep: Write, tmp_path: Path, overrides: list[str], fault: str) -> None:
    path = write_sweep(axes={"merge.scale": [1]})
    with pytest.raises(RequestError, match=fault):
        load_sweep(path, overrides)
    assert not (tmp_path / "out").exists()


def test_the_faults_of_all_points_are_told_once_each(write_sweep: Write) -> None:
    path = write_sweep(merge="ties", axes={"merge.density": [0.1, 2, 3], "merge.scale": ["x", 1]})
    with pytest.raises(RecipeError) as caught:
        load_sweep(path)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("overrides", "status", "fault"),
    [
        (["models.mood.path=nowhere"], 2, "models.mood: .*nowhere"),
        (["select.split=nothing"], 2, "no split 'nothing'"),
        (["report.split=nothing"], 2, "no split 'nothing'"),
    ],
)
def test_inputs_are_looked_at_before_any_work(
    write_sweep: Write, overrides: list[str], status: int, fault: str
) -> None:
    path = write_sweep(axes={"merge.scale": [1, 2]})
    check_inputs(load_sweep(path))
    with pytest.raises(MatsError, match=fault) as caught:
        check_inputs(load_sweep(path, overrides))
    assert caught.value.exit_status == status


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_a_partition(write_sweep: Write, count: int) -> None:
    points = load_sweep(write_sweep(axes={"merge.scale": {"range": [1, 5, 5]}})).points
    shards = [shard_groups(points, (index + 1, count)) for index in range(count)]
    numbers = [point.number for shard in shards for group in shard for point in group]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_faults_of_a_shard(text: str) -> None:
    assert parse_shard("2/3") == (2, 3)
    with pytest.raises(RequestError, match=f"--shard {text}: i/n with i from 1 to n would be right"):
        parse_shard(text)
