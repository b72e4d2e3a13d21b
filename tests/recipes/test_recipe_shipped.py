"""Every recipe that ships is valid, and what it promises is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.data import load_spec
from mats.errors import RecipeError
from mats.methods.published import published_settings
from mats.recipes import load_recipe
from mats.recipes.mergekit import read_merge_file
from mats.recipes.requests import reads_metadata
from mats.yaml_reader import read_yaml

ROOT = Path(__file__).parents[2]
MERGE_FILES = sorted((ROOT / "configs" / "recipes" / "mergekit").glob("*.yaml"))
RECIPES = sorted(set((ROOT / "configs" / "recipes").rglob("*.yaml")) - set(MERGE_FILES))


def test_all_recipes_are_found() -> None:
    assert len(RECIPES) == 19


@pytest.mark.parametrize("path", RECIPES, ids=[str(path.relative_to(ROOT)) for path in RECIPES])
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.base is not None
    assert len({model.path for model in recipe.models}) == len(recipe.models)
    assert len(recipe.models) >= (1 if path.name == "pem_unlearning.yaml" else 2)
    if path.name != "models.yaml":
        assert recipe.output is not None
    for model in recipe.models:
        assert model.data is not None
        if not model.data.startswith("exp_out/"):
            assert {recipe.curvature.split, recipe.evaluate.split} <= set(load_spec(ROOT / model.data).split_names)


@pytest.mark.parametrize("path", MERGE_FILES, ids=[path.name for path in MERGE_FILES])
def test_a_shipped_merge_file_is_valid(path: Path) -> None:
    assert len(MERGE_FILES) == 4
    assert read_merge_file(read_yaml(path)).method in ("ties", "slerp", "passthrough", "mats")
    with pytest.raises(RecipeError, match="mats merge FILE OUT reads those"):
        load_recipe(path)


def test_outputs_differ() -> None:
    outputs = [recipe.output for recipe in map(load_recipe, RECIPES) if recipe.output is not None]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "fisher", "regmean", "mats"])
def test_the_published_recipes_are_the_published_settings(method: str) -> None:
    folder = ROOT / "configs" / "recipes"
    assert load_recipe(folder / "p3_eight_qa" / f"{method}.yaml").merge.settings == published_settings(method)
    adapters = folder / "p3_eight_qa_ia3" / f"{method}.yaml"
    if adapters.exists():
        assert load_recipe(adapters).merge.settings == published_settings(method, "ia3")


def test_recipes_of_one_folder_share_their_stores() -> None:
    curvatures = {load_recipe(path).curvature for path in (ROOT / "configs" / "recipes" / "p3_eight_qa").glob("*.yaml")}
    assert len(curvatures) == 1
    assert reads_metadata(load_recipe(ROOT / "configs" / "recipes" / "p3_eight_qa" / "mats.yaml"))
    assert not reads_metadata(load_recipe(ROOT / "configs" / "recipes" / "p3_eight_qa" / "ties.yaml"))
