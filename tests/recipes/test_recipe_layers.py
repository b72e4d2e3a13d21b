"""`extends:`, deep merging, models by name, and what a change of method does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.errors import RecipeError, RequestError
from mats.recipes import load_recipe
from mats.recipes.layers import Layer, load_layers, merge_layers


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_file_wins_over_what_it_extends_and_later_parents_over_earlier(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", "base: one\nseed: 1\nmodels: [a, b]\ncurvature: {split: train, examples: 7}\n")
    write(tmp_path, "two.yaml", "seed: 2\ncurvature: {examples: 9}\n")
    path = write(tmp_path, "sub/child.yaml", "extends: [../one.yaml, ../two.yaml]\ncurvature: {loss: sum}\n")
    recipe = load_recipe(path)
    assert (recipe.base, recipe.seed) == ("one", 2)
    assert (recipe.curvature.split, recipe.curvature.examples, recipe.curvature.loss) == ("train", 9, "sum")


def test_lists_replace(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "models: [a, b, c]\n")
    recipe = load_recipe(write(tmp_path, "up.yaml", "extends: low.yaml\nmodels: [d]\n"))
    assert [model.name for model in recipe.models] == ["d"]


def test_a_mapping_of_models_changes_those_named_and_adds_others(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", "models:\n  - {name: paws, path: p, data: d.yaml}\n  - exp_out/quartz\n")
    path = write(
        tmp_path, "up.yaml", "extends: low.yaml\nmodels:\n  quartz: {weight: 2}\n  paws: {path: q}\n  new: {path: n}\n"
    )
    recipe = load_recipe(path)
    assert [(m.name, m.path, m.data, m.weight) for m in recipe.models] == [
        ("paws", "q", "d.yaml", 1.0),
        ("quartz", "exp_out/quartz", None, 2.0),
        ("new", "n", None, 1.0),
    ]


def test_another_method_starts_from_its_own_defaults(tmp_path: Path) -> None:
    write(
        tmp_path,
        "low.yaml",
        "base: b\nmodels: [a]\nmerge:\n  method: mats\n  anchor: 0.7\n  init: {method: ties, density: 0.5}\n"
        "  rules: [{parameters: '*norm*', method: average}]\n",
    )
    recipe = load_recipe(write(tmp_path, "up.yaml", "extends: low.yaml\nmerge: {method: regmean, off_diagonal: 0.5}\n"))
    assert recipe.merge.settings.name == "regmean"
    assert recipe.merge.settings.anchor == 0.1
    assert [rule.parameters for rule in recipe.merge.rules] == ["*norm*"]
    start = load_recipe(write(tmp_path, "start.yaml", "extends: low.yaml\nmerge: {init: {method: task_arithmetic}}\n"))
    assert start.merge.settings.init.scale == 0.3
    same = load_recipe(write(tmp_path, "same.yaml", "extends: low.yaml\nmerge: {init: {scale: 0.9}}\n"))
    assert (same.merge.settings.init.density, same.merge.settings.init.scale) == (0.5, 0.9)


def test_the_bare_name_of_a_method(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.yaml", "models: [a]\nmerge: {init: average, outside: average}\n"))
    assert recipe.merge.settings.init.name == recipe.merge.settings.outside.name == "average"
    assert load_recipe(write(tmp_path, "t.yaml", "models: [a]\nmerge: ties\n")).merge.settings.name == "ties"
    over = write(tmp_path, "o.yaml", "extends: t.yaml\nmerge: {density: 0.5}\n")
    assert load_recipe(over).merge.settings.density == 0.5


def test_circles_are_found(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"extends: goes in a circle: .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        load_layers(tmp_path / "a.yaml")


def test_the_same_parent_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, "root.yaml", "models: [a]\n")
    write(tmp_path, "left.yaml", "extends: root.yaml\n")
    write(tmp_path, "right.yaml", "extends: root.yaml\nseed: 4\n")
    assert load_recipe(write(tmp_path, "top.yaml", "extends: [left.yaml, right.yaml]\n")).seed == 4


def test_a_missing_parent_and_a_wrong_extends(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        load_layers(write(tmp_path, "a.yaml", "extends: none.yaml\n"))
    with pytest.raises(RecipeError, match="a file name or a list of file names would be right"):
        load_layers(write(tmp_path, "b.yaml", "extends: {x: 1}\n"))


def test_faults_name_the_file_that_holds_them(tmp_path: Path) -> None:
    low = write(tmp_path, "low.yaml", "models: [a]\nseed: x\n")
    up = write(tmp_path, "up.yaml", "extends: low.yaml\n\nmerge: {anchor: -1}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(up)
    assert caught.value.faults == (
        f'{low}:2: seed: received "x"; a whole number would be right',
        f"{up}:3: merge.anchor: received -1; a number of at least 0 would be right",
    )


def test_merging_leaves_its_inputs_alone() -> None:
    low, up = Layer({"a": {"b": 1}}), Layer({"a": {"c": 2}})
    assert merge_layers(low, up).data == {"a": {"b": 1, "c": 2}}
    assert (low.data, up.data) == ({"a": {"b": 1}}, {"a": {"c": 2}})
