"""Metadata for the points of a sweep: measured once, by whoever asks first; shards that ask together wait for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from mats.files import exclusive
from mats.progress import Progress
from mats.recipes.requests import collection_request, metadata_folder, reads_metadata
from mats.recipes.schema import Recipe
from mats.recipes.sections import ModelEntry


class Measurements:
    """The stores that this run has seen complete; each is checked against weights and examples once."""

    def __init__(self) -> None:
        self._complete: set[Hashable] = set()

    def ensure(self, recipe: Recipe, progress: Progress) -> None:
        """Measure every model of the recipe whose store is not there.

        Raises:
            MatsError: as `save_metadata`.
        """
        for model in measured_models(recipe):
            if _measurement(recipe, model) not in self._complete:
                self._measure(recipe, model, progress)
                self._complete.add(_measurement(recipe, model))

    def _measure(self, recipe: Recipe, model: ModelEntry, progress: Progress) -> None:
        from mats.engine import save_metadata

        folder = metadata_folder(recipe, model)
        with exclusive(folder.with_name(f".{folder.name}.sweep.lock"), wait=True):
            save_metadata(collection_request(recipe, model), progress)


def measured_models(recipe: Recipe) -> list[ModelEntry]:
    """The models that a sweep measures for this recipe: none where no method reads metadata.

    A model that names its store is measured by its owner.
    """
    return [model for model in recipe.models if model.metadata is None] if reads_metadata(recipe) else []


def missing_stores(recipes: Sequence[Recipe]) -> list[Path]:
    """The stores that are yet to be measured, each once."""
    wanted = {_measurement(recipe, model): (recipe, model) for recipe in recipes for model in measured_models(recipe)}
    folders = dict.fromkeys(metadata_folder(recipe, model) for recipe, model in wanted.values())
    return [folder for folder in folders if not folder.is_dir()]


def _measurement(recipe: Recipe, model: ModelEntry) -> Hashable:
    """Equal for recipes that measure the model alike; the store's folder says so too, but reads the dataset file."""
    return (recipe.base, recipe.seed, recipe.curvature, model.name, model.path, model.data)
