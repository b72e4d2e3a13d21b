"""What `mats refresh` asks for: the recipe measured at an earlier result, or one line that says why that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mats.errors import OutputExists, RecipeError, RequestError
from mats.recipes import recipe_from
from mats.recipes.refreshing import refreshed_recipe
from mats.recipes.requests import position_of
from mats.recipes.schema import Recipe


def recipe(**changes: Any) -> Recipe:
    models = [
        {"name": "a", "path": "x/a", "data": "a.yaml", "metadata": "stores/a", "weight": 2.0},
        {"name": "b", "path": "x/b", "data": "b.yaml", "measured_on": "older"},
    ]
    return recipe_from({"base": "x/base", "models": models, "merge": {"method": "mats", "damping": 0.3}, **changes})


def test_every_model_is_measured_at_the_merged_weights_and_nothing_else_changes(tmp_path: Path) -> None:
    found = refreshed_recipe(recipe(), tmp_path, tmp_path / "out")
    assert [model.measured_on for model in found.models] == [str(tmp_path)] * 2
    assert [model.metadata for model in found.models] == [None, None]
    back = [
        model.model_copy(update={"measured_on": before.measured_on, "metadata": before.metadata})
        for model, before in zip(found.models, recipe().models, strict=True)
    ]
    assert found.model_copy(update={"models": tuple(back)}) == recipe()


def test_a_position_that_the_recipe_names_gives_way_to_the_merged_weights(tmp_path: Path) -> None:
    found = refreshed_recipe(recipe(curvature={"position": 0.5}), tmp_path, tmp_path / "out")
    assert position_of(found, found.models[0]) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": {"method": "ties"}}, "merge.method ties: reads no metadata"),
        ({"merge": {"method": "mats", "cross_validate": "damping"}}, "merge.cross_validate: halves of the examples"),
    ],
)
def test_methods_that_cannot_be_refreshed(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        refreshed_recipe(recipe(**changes), tmp_path, tmp_path / "out")


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none: no such folder; the result of mats merge"):
        refreshed_recipe(recipe(), tmp_path / "none", tmp_path / "out")
    with pytest.raises(RequestError, match="is the merge that is to be refreshed"):
        refreshed_recipe(recipe(), tmp_path, tmp_path / ".")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists, match="out: exists already; choose another output or pass --overwrite"):
        refreshed_recipe(recipe(), tmp_path, tmp_path / "out")
    assert refreshed_recipe(recipe(), tmp_path, tmp_path / "out", overwrite=True).models[0].measured_on == str(tmp_path)


def test_every_model_without_data_is_named(tmp_path: Path) -> None:
    found = recipe(models=["x/a", {"path": "x/b", "data": "b.yaml"}, "x/c"])
    with pytest.raises(RecipeError, match=r"models\.a\.data: missing(.|\n)*models\.c\.data: missing"):
        refreshed_recipe(found, tmp_path, tmp_path / "out")
