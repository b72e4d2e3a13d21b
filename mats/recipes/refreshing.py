"""A recipe whose metadata are measured at the weights of an earlier merge, while its models stay the aim."""

from __future__ import annotations

from pathlib import Path

from mats.errors import RecipeError, RequestError
from mats.files import refuse_existing
from mats.recipes.requests import cross_validates, reads_metadata
from mats.recipes.schema import Recipe


def refreshed_recipe(recipe: Recipe, merged: Path, output: Path, *, overwrite: bool = False) -> Recipe:
    """`recipe` with `measured_on: merged` for every model; stores that models name are those of their own weights.

    Args:
        recipe: what was merged.
        merged: the folder of an earlier result.
        output: where the next one is to be.
        overwrite: whether one that is there may be replaced.

    Raises:
        OutputExists: `output` is there; told before anything is measured.
        RequestError: `merged` is no folder, or is `output`; the method reads no metadata, or chooses a strength by
            halves of the examples, of which no store is made here.
        RecipeError: models without a dataset; all of them.
    """
    if not merged.is_dir():
        raise RequestError(f"{merged}: no such folder; the result of mats merge on this recipe would be right")
    if merged.resolve() == output.resolve():
        raise RequestError(f"{output}: is the merge that is to be refreshed; another folder would be right")
    refuse_existing(output, overwrite=overwrite)
    method = recipe.merge.settings.name
    if not reads_metadata(recipe):
        raise RequestError(f"merge.method {method}: reads no metadata, so there is nothing to measure once more")
    if cross_validates(recipe):
        raise RequestError(
            "merge.cross_validate: halves of the examples are not measured here; a fixed strength would be"
        )
    without = [model.name for model in recipe.models if model.data is None]
    if without:
        raise RecipeError(
            [f"models.{name}.data: missing; its dataset file is needed to measure it once more" for name in without]
        )
    models = tuple(model.model_copy(update={"measured_on": str(merged), "metadata": None}) for model in recipe.models)
    at_the_merge = recipe.curvature.model_copy(update={"position": None})
    return recipe.model_copy(update={"models": models, "curvature": at_the_merge})
