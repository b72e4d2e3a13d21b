"""The section of a recipe that thins models out before they are merged (docs/sparsify.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mats.methods.sparsify import SparsifySettings

if TYPE_CHECKING:
    from mats.recipes.schema import Recipe
    from mats.recipes.sections import ModelEntry


class SparsifySection(SparsifySettings):
    """What is dropped of each model's change, and what the rest is multiplied by; of the whole recipe or one model."""

    @classmethod
    def known_fields(cls, data: Any) -> dict[str, Any]:  # noqa: ARG003 - the same whatever stands there
        """The keys that may be written: `density` is another way to say `drop`."""
        return {name: field.annotation for name, field in cls.model_fields.items()} | {"density": float}


def sparsify_of(recipe: Recipe, model: ModelEntry) -> SparsifySettings | None:
    """What one model of a recipe is put through: its own section, else the recipe's, with the seed that holds."""
    section = model.sparsify if model.sparsify is not None else recipe.sparsify
    if section is None:
        return None
    seed = recipe.seed if section.seed is None else section.seed
    return SparsifySettings.model_validate(section.model_dump() | {"seed": seed})
