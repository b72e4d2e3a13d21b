"""From a recipe file and overrides to a checked `Recipe`, with every fault told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mats.errors import RecipeError
from mats.recipes.faults import explain
from mats.recipes.layers import Layer, load_layers, named_models
from mats.recipes.mergekit.schema import is_merge_file
from mats.recipes.overrides import apply_overrides
from mats.recipes.presets import below_preset
from mats.recipes.schema import Recipe


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, what it extends, and overrides such as `merge.anchor=0.2`.

    Args:
        path: a YAML (or JSON) file.
        overrides: `key.path=value` each, applied last.

    Raises:
        RequestError: a file is missing.
        RecipeError: faults in the files, the overrides or the values; all of them, one line each.
    """
    return check_layer(load_layers(Path(path)), overrides)


def recipe_from(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The same from plain data instead of a file (`extends` is for files alone).

    Raises:
        RecipeError: faults in the data, one line each.
    """
    return check_layer(named_models(Layer(dict(data))), overrides)


def check_layer(layer: Layer, overrides: Sequence[str]) -> Recipe:
    """Apply the overrides and the preset, and check everything against the schema."""
    if is_merge_file(layer.data):
        where = layer.origin(("merge_method",))
        advice = "mats merge FILE OUT reads those (with --dry-run it only looks)"
        raise RecipeError([f"{where}: merge_method: a merge file of mergekit; {advice}"])
    layer, faults = apply_overrides(layer, overrides, Recipe)
    layer, preset_faults = below_preset(layer)
    faults += preset_faults
    try:
        recipe = Recipe.model_validate(layer.data)
    except ValidationError as error:
        raise RecipeError([*faults, *explain(error, layer, Recipe)]) from error
    if faults:
        raise RecipeError(faults)
    return recipe
