"""Metadata for the points of a sweep: measured once, by whoever asks first; shards that ask together wait for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mats.files import exclusive
from mats.progress import Progress
from mats.recipes.requests import collection_request, metadata_folder, reads_metadata
from mats.recipes.schema import Recipe
from mats.recipes.sections import ModelEntry


class Measurements:
    """The stores that this run has seen complete; each is checked against weights and examples once."""

    def __init__(self) -> None:
        self._complete: set[Path] = set()

    def ensure(self, recipe: Recipe, progress: Progress) -> None:
        """Measure every model of the recipe whose store is not there.

        Raises:
            MatsError: as `save_metadata`.
        """
        for model, folder in stores_of(recipe):
            if folder not in self._complete:
                self._measure(recipe, model, folder, progress)
                self._complete.add(folder)

    def _measure(self, recipe: Recipe, model: ModelEntry, folder: Path, progress: Progress) -> None:
        from mats.engine import save_metadata

        with exclusive(folder.with_name(f".{folder.name}.sweep.lock"), wait=True):
            save_metadata(collection_request(recipe, model), progress)


def stores_of(recipe: Recipe) -> Iterator[tuple[ModelEntry, Path]]:
    """The models that a sweep measures for this recipe, with their stores' folders; none where nothing reads them.

    A model that names its store is measured by its owner.
    """
    if reads_metadata(recipe):
        for model in recipe.models:
            if model.metadata is None:
                yield model, metadata_folder(recipe, model)


def missing_stores(recipes: Sequence[Recipe]) -> list[Path]:
    """The stores that are yet to be measured, each once."""
    folders = dict.fromkeys(folder for recipe in recipes for _, folder in stores_of(recipe))
    return [folder for folder in folders if not folder.is_dir()]
