"""What a recipe asks of `mats predict`: its models with their metadata, and the candidates by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mats.errors import RequestError
from mats.recipes.requests import merge_request
from mats.recipes.schema import MergeSection, Recipe

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest

UNTOUCHED = "nothing-is-written"


def prediction_request(recipe: Recipe) -> MergeRequest:
    """Models, base and metadata as a merge of the recipe would have them; its method has no say in a prediction.

    Raises:
        RecipeError: a model without metadata; every model that lacks it.
    """
    measured = recipe.model_copy(update={"merge": MergeSection.model_validate({"method": "mats"})})
    return replace(merge_request(measured, UNTOUCHED), resolved_recipe={})


def named_candidates(recipe: Recipe, paths: Sequence[str]) -> dict[str, str]:
    """The candidates by the last part of their paths, or by whole paths where that is not enough to tell them apart.

    Args:
        recipe: its own result is the candidate where no path is given and the result is there.
        paths: checkpoints and merged folders.

    Raises:
        RequestError: the same path twice.
    """
    if not paths and recipe.output is not None and Path(recipe.output).is_dir():
        paths = [recipe.output]
    for path in paths:
        if list(paths).count(path) > 1:
            raise RequestError(f"candidate {path}: given {list(paths).count(path)} times; once is enough")
    short = [PurePosixPath(path).name for path in paths]
    taken = {"base", *(model.name for model in recipe.models)}
    return {
        path if name in taken or short.count(name) > 1 or not name else name: path
        for name, path in zip(short, paths, strict=True)
    }
