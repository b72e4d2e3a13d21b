"""docs/recipes.md and the schema say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mats.methods.registry import method_names
from mats.recipes import load_recipe
from mats.recipes.reference import METHODS, tables

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


def test_the_page_ends_with_the_tables_of_the_schema() -> None:
    assert PAGE.rstrip().endswith(tables().rstrip()), "python -m mats.recipes.reference prints the tables anew"


def test_every_method_has_its_table() -> None:
    assert sorted(METHODS) == sorted(method_names())


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_page_are_valid(block: str, tmp_path: Path) -> None:
    data = yaml.safe_load(block)
    if "extends" in data:
        (tmp_path / "models.yaml").write_text("base: b\nmodels: [x/paws, x/quartz]\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(block)
    recipe = load_recipe(path)
    assert [model.name for model in recipe.models] == ["paws", "quartz"]


def test_the_overrides_of_the_page_are_valid(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: b\nmodels: [x/paws, x/quartz]\n")
    (line,) = re.findall(r"^mats merge recipe.yaml exp_out/try (.*)$", PAGE, re.MULTILINE)
    recipe = load_recipe(tmp_path / "recipe.yaml", line.split())
    assert (recipe.merge.settings.damping, recipe.models[0].weight) == (0.3, 0.5)
    inline = re.findall(r"`((?:seed|base|merge\.radius|merge\.fallback)=[^`]*)`", PAGE)
    assert len(inline) == 4
    load_recipe(tmp_path / "recipe.yaml", inline)
