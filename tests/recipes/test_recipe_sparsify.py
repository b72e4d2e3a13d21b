"""The section `sparsify`: of a recipe, of a model, overridden; and what reaches the engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mats.errors import RecipeError
from mats.recipes import Recipe, load_recipe, recipe_from
from mats.recipes.requests import merge_request
from mats.recipes.sparsify import sparsify_of

PAGE = (Path(__file__).parents[2] / "docs" / "sparsify.md").read_text()


def recipe(*overrides: str, **sections: Any) -> Recipe:
    models = [{"name": "paws", "path": "x/paws"}, {"name": "quartz", "path": "x/quartz"}]
    return recipe_from({"base": "b", "models": models, "merge": "average", **sections}, overrides)


def test_a_models_own_section_wins_and_the_seed_is_the_recipes() -> None:
    found = recipe(
        "models.quartz.sparsify.density=0.3", "models.quartz.sparsify.seed=9", sparsify={"drop": 0.9}, seed=4
    )
    request = merge_request(found, "out")
    paws, quartz = (model.sparsify for model in request.models)
    assert paws is not None
    assert quartz is not None
    assert (paws.drop, paws.seed, paws.rescale) == (0.9, 4, "inverse")
    assert (quartz.drop, quartz.seed) == (0.7, 9)
    assert request.resolved_recipe["sparsify"]["drop"] == 0.9
    assert [model.sparsify for model in merge_request(recipe(), "out").models] == [None, None]


@pytest.mark.parametrize("written", [{"drop": 0.9}, {"density": 0.25, "strategy": "della"}, {"drop": 0, "rescale": 2}])
def test_the_resolved_recipe_reads_back(written: dict[str, Any]) -> None:
    found = recipe(sparsify=written)
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(found.as_written())))
    assert again == found
    assert sparsify_of(again, again.models[0]) == sparsify_of(found, found.models[0])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sparsify.densty=0.1", "unknown key 'densty'; did you mean 'density'"),
        ("sparsify.strategy=magnitud", "did you mean 'magnitude'"),
        ("sparsify.rescale=nrom", "did you mean 'norm'"),
        ("sparsify.drop=1.5", "a number of at most 1"),
        ("sparsify.density=0.1", "drop and density are both given"),
        ("sparsify.gamma=0.1", "gamma belongs to strategy breadcrumbs"),
        ("sparsify.of=deltas", "'delta' or 'weights' would be right"),
        ("models.paws.sparsify={}", "drop: missing"),
    ],
)
def test_r14_faults_of_the_section_are_told_with_what_would_be_right(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(told)):
        recipe(override, sparsify={"drop": 0.9})


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(block)
    found = load_recipe(tmp_path / "recipe.yaml")
    cola, rte = found.models
    assert sparsify_of(found, cola).drop == 0.9  # type: ignore[union-attr]
    assert sparsify_of(found, rte).drop == 0.5  # type: ignore[union-attr]


def test_the_page_tells_every_key_and_strategy() -> None:
    from mats.methods.sparsify import SparsifySettings

    schema = SparsifySettings.model_json_schema()
    for word in (*schema["properties"], *schema["properties"]["strategy"]["enum"]):
        assert f"`{word}" in PAGE or f"{word}:" in PAGE, word
