"""A recipe may name a store by its hub id: found in the cache, told in one line where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.errors import RecipeError
from mats.recipes import load_recipe
from mats.recipes.requests import existing_metadata

RECIPE = """
models:
  - {{name: paws, path: models/paws, metadata: "{metadata}"}}
merge: {{method: regmean}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe whose model names this store; the hub's cache has one repository, and there is no network."""
    import huggingface_hub.constants

    home = tmp_path / "cache" / "models--someone--paws-metadata"
    (home / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (home / "snapshots" / ("a" * 40) / "manifest.json").write_text("{}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def written(metadata):
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(metadata=metadata))
        return load_recipe(tmp_path / "recipe.yaml", [])

    return written


@pytest.mark.parametrize("metadata", ["someone/paws-metadata", "someone/paws-metadata@main"])
def test_a_hub_id_stands_for_its_store(recipe, metadata):
    found = recipe(metadata)
    assert existing_metadata(found, found.models[0]) == Path(metadata), "as it is written, for the report"


def test_a_hub_id_that_is_not_there_is_told_with_its_place(recipe):
    found = recipe("someone/nothing")
    with pytest.raises(RecipeError, match=r"^models\.paws\.metadata: someone/nothing: no such folder here, and not in"):
        existing_metadata(found, found.models[0])
    found = recipe("someone/paws-metadata:absent")
    with pytest.raises(RecipeError, match=r"there is no absent/manifest\.json in it; someone/paws-metadata would"):
        existing_metadata(found, found.models[0])
