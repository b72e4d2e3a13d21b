"""The section `heads`: its short forms, layers, overrides, and what the engine is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mats.engine import Heads
from mats.errors import RecipeError, RequestError
from mats.recipes import load_recipe
from mats.recipes.requests import collection_request, heads_of, merge_request
from mats.recipes.schema import Recipe

MODELS = "base: b\nmodels: [x/sst2, x/rte]\noutput: out\nmerge: average\n"


def recipe(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(MODELS + text)
    return load_recipe(tmp_path / "recipe.yaml", overrides)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("heads: auto", Heads()),
        ("heads: {}", Heads()),
        ("heads: average", Heads((), "average")),
        ("heads: rte", Heads((), "rte")),
        ("heads: {parameters: 'classifier*'}", Heads(("classifier*",))),
        ("heads: {parameters: [score.*, '*pooler*'], from: base}", Heads(("score.*", "*pooler*"), "base")),
    ],
)
def test_forms_of_the_section(tmp_path: Path, text: str, expected: Heads | None) -> None:
    found = recipe(tmp_path, text)
    assert heads_of(found) == expected
    assert merge_request(found).heads == expected
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(found.as_written())))
    assert heads_of(again) == expected


def test_overrides_and_layers_reach_below_a_bare_word(tmp_path: Path) -> None:
    assert heads_of(recipe(tmp_path, "heads: auto", "heads.from=rte")) == Heads((), "rte")
    assert heads_of(recipe(tmp_path, "", "heads=auto")) == Heads()
    assert heads_of(recipe(tmp_path, "heads: rte", "heads.parameters=[score*]")) == Heads(("score*",), "rte")
    (tmp_path / "below.yaml").write_text(MODELS + "heads: rte\n")
    (tmp_path / "above.yaml").write_text("extends: below.yaml\nheads: {parameters: [score*]}\n")
    assert heads_of(load_recipe(tmp_path / "above.yaml")) == Heads(("score*",), "rte")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("heads: six", r"heads.from: received 'six'; own, average, base or a model \(sst2, rte\) would be right"),
        ("heads: {source: rte}", r"recipe.yaml:5: heads: unknown key 'source'.* received \"rte\""),
        ("heads: {form: rte}", r"heads: unknown key 'form'; did you mean 'from'\?"),
        ("heads: {parameters: []}", "parameters: an empty list names no head"),
    ],
)
def test_faults_are_told_in_the_words_of_the_recipe(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        recipe(tmp_path, text)


def write_dataset(folder: Path) -> None:
    data = {"name": "d", "task": "text_classification", "labels": 2}
    data |= {"source": {"format": "json_lines", "files": {"validation": "v.jsonl"}}}
    (folder / "d.yaml").write_text(yaml.safe_dump(data))


def test_measured_on_is_measured_and_merged_with(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    text = f"models:\n  - {{name: sst2, path: x/sst2, data: {tmp_path}/d.yaml, measured_on: exp_out/first}}\nbase: b\n"
    (tmp_path / "recipe.yaml").write_text(text)
    found = load_recipe(tmp_path / "recipe.yaml")
    asked = collection_request(found, found.models[0])
    assert (asked.model, asked.measured_on, asked.name) == ("x/sst2", "exp_out/first", "sst2")
    merging = merge_request(load_recipe(tmp_path / "recipe.yaml", ["merge=average"]), "out")
    assert merging.models[0].measured_on == "exp_out/first"


def test_draws_reach_the_collection(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"models:\n  - {{name: a, path: x/a, data: {tmp_path}/d.yaml}}\nbase: b\n")
    asked = load_recipe(tmp_path / "recipe.yaml", ["curvature.labels=sampled", "curvature.draws=4"])
    assert collection_request(asked, asked.models[0]).settings.draws == 4
    wrong = load_recipe(tmp_path / "recipe.yaml", ["curvature.draws=4"])
    with pytest.raises(RequestError, match="draws: got 4 with labels 'empirical'"):
        collection_request(wrong, wrong.models[0])


@pytest.mark.parametrize(
    ("text", "position", "heads"),
    [
        ("base: b", 0.5, None),
        ("base: b\nheads: auto", 0.5, ()),
        ("base: b\nheads: {parameters: [score*]}", 0.5, ("score*",)),
        ("seed: 0", 1.0, None),
        ("base: b\nheads: auto\ncurvature: {position: 1}", 1.0, None),
        ("base: b\ncurvature: {position: 0.7}", 0.7, None),
        ("base: b\nmerge: {method: mats, preset: published}", 1.0, None),
    ],
)
def test_a_model_is_measured_half_way_to_its_base_unless_the_recipe_says_otherwise(
    tmp_path: Path, text: str, position: float, heads: tuple[str, ...] | None
) -> None:
    write_dataset(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"models:\n  - {{name: a, path: x/a, data: {tmp_path}/d.yaml}}\n{text}\n")
    found = load_recipe(tmp_path / "recipe.yaml")
    asked = collection_request(found, found.models[0])
    assert (asked.position, asked.heads) == (position, heads)
