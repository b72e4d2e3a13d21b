"""From a sweep file and overrides to a checked sweep: its points, each with its resolved recipe, all faults at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mats.data import load_spec
from mats.errors import RecipeError
from mats.recipes.faults import explain
from mats.recipes.layers import Layer, extended_layer, load_layers
from mats.recipes.loading import check_layer
from mats.recipes.overrides import COMMAND_LINE, apply_overrides
from mats.recipes.schema import Recipe
from mats.sweeps.axis import Setting
from mats.sweeps.expansion import expand_axes
from mats.sweeps.points import Point, digest_of
from mats.sweeps.spec import Sweep
from mats.yaml_reader import parse_value, read_yaml

TAKEN = ("output", "evaluate.split", "evaluate.output", "evaluate.individual")
"""Keys of the recipe that a sweep decides by itself, by point or by split."""
FREE = ("axes", "launcher")
"""Sections whose keys are free."""
COLUMNS = ("point", "split", "dataset", "metric", "value", "selected", "state", "error")
"""Names that tables use, and axes therefore may not have."""


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep ready to run.

    Attributes:
        path: the sweep file.
        sweep: what it says, overrides included.
        points: in order; their recipes are valid.
    """

    path: Path
    sweep: Sweep
    points: tuple[Point, ...]

    @property
    def output(self) -> Path:
        """The sweep's folder."""
        return Path(self.sweep.output or f"exp_out/sweeps/{self.path.stem}")

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The columns that tell points apart, in order of appearance."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.columns))

    @property
    def point_splits(self) -> tuple[str, ...]:
        """The splits on which every point is scored."""
        report = self.sweep.report
        everywhere = (report.split,) if report is not None and report.points == "all" else ()
        return (self.sweep.select.split, *everywhere)


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Read a sweep file and make its points.

    Args:
        path: a YAML (or JSON) file.
        overrides: `key.path=value` each: keys of the sweep file (`keep=all`, `axes.merge.scale=[0.1, 0.2]`), else keys
            of the recipe.

    Raises:
        RequestError: a file is missing.
        RecipeError: faults in the files, the overrides, the axes or any point; all of them, one line each.
    """
    path = Path(path)
    file = read_yaml(path)
    layer = Layer(file.data, {at: f"{path}:{line}" for at, line in file.lines.items()})
    layer, recipe_overrides = _override_sweep(layer, overrides)
    try:
        sweep = Sweep.model_validate(layer.data)
    except ValidationError as error:
        raise RecipeError(explain(error, layer, Sweep)) from error
    if faults := _split_faults(sweep, layer):
        raise RecipeError(faults)
    recipe_layer, faults = apply_overrides(_recipe_layer(path, sweep, layer), recipe_overrides, Recipe)
    if faults:
        raise RecipeError(faults)
    recipe = check_layer(recipe_layer, ())
    settings = expand_axes(sweep.axes, sweep.zip, [model.name for model in recipe.models], str(path))
    if faults := _key_faults(settings, recipe_overrides, str(path)):
        raise RecipeError(faults)
    loaded = LoadedSweep(path, sweep, _points(recipe_layer, settings, str(path)))
    if faults := _scoring_faults(loaded, recipe):
        raise RecipeError(faults)
    return loaded


def _override_sweep(layer: Layer, overrides: Sequence[str]) -> tuple[Layer, list[str]]:
    """The overrides whose first word is a key of the sweep applied; the others, which are the recipe's, returned.

    The keys of some sections are not the schema's: all after `axes.` is the name of an axis, dots and all.
    """
    free = {
        section: dict(layer.data.get(section) or {}) for section in FREE if section in layer.data or section == "axes"
    }
    own, recipe, faults = [], [], []
    for override in overrides:
        key, equals, text = override.partition("=")
        section, _, name = key.partition(".")
        if section in FREE and name and equals:
            try:
                free.setdefault(section, {})[name] = parse_value(text)
            except ValueError as error:
                faults.append(f"{COMMAND_LINE}: {key}: received {text!r}: {error}")
        elif key.split(".")[0] in Sweep.model_fields:
            own.append(override)
        elif equals and key.split(".")[0] not in Recipe.model_fields:
            known = [*Sweep.model_fields, *Recipe.model_fields]
            near = difflib.get_close_matches(key.split(".")[0], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(dict.fromkeys(known))}"
            faults.append(f"{COMMAND_LINE}: {key}: neither a key of the sweep nor of its recipe{hint}")
        else:
            recipe.append(override)
    changed, more = apply_overrides(Layer({**layer.data, **free}, layer.origins), own, Sweep)
    if faults + more:
        raise RecipeError(faults + more)
    return changed, recipe


def _recipe_layer(path: Path, sweep: Sweep, layer: Layer) -> Layer:
    """The recipe as a layer: a file, or what stands in the sweep file over what it extends."""
    if isinstance(sweep.recipe, str):
        return load_layers(path.parent / sweep.recipe)
    origins = {at[1:]: where for at, where in layer.origins.items() if at[:1] == ("recipe",) and len(at) > 1}
    return extended_layer(sweep.recipe, origins, path)


def _split_faults(sweep: Sweep, layer: Layer) -> list[str]:
    """The split that chooses must not be the one reported."""
    if sweep.report is None or sweep.report.split != sweep.select.split:
        return []
    return [
        f"{layer.origin(('report', 'split'))}: report.split: received {sweep.report.split!r}, the split that points "
        "are selected on; a score chosen by looking at it is no estimate: another split would be right"
    ]


def _key_faults(settings: Sequence[Setting], recipe_overrides: Sequence[str], where: str) -> list[str]:
    """No axis sets what the sweep decides, nor has the name of a table's column; no override sets what an axis sets."""
    keys = dict.fromkeys(key for setting in settings for key in setting.overrides)
    columns = dict.fromkeys(name for setting in settings for name in setting.columns)
    faults = [
        f"{where}: axes: {key}: is decided by the sweep itself; "
        + ("select.split and report.split would be right" if key == "evaluate.split" else "it cannot be an axis")
        for key in keys
        if key in TAKEN
    ]
    faults += [
        f"{where}: axes.{name}: tables have a column of that name; another would be right"
        for name in columns
        if name in COLUMNS
    ]
    for override in recipe_overrides:
        given = override.partition("=")[0]
        for key in keys:
            if given == key or given.startswith(f"{key}."):
                faults.append(f"{COMMAND_LINE}: {given}: is set by an axis of the sweep; axes.{key}=[…] would be right")
    return faults


def _points(layer: Layer, settings: Sequence[Setting], where: str) -> tuple[Point, ...]:
    """Each setting's recipe, checked; a fault that many points share is told once."""
    points: list[Point] = []
    faults: dict[str, None] = {}
    content = cache(_dataset_content)
    for number, setting in enumerate(settings, start=1):
        try:
            recipe = _recipe_of(layer, setting)
            points.append(Point(number, dict(setting.columns), recipe, digest_of(recipe, content)))
        except RecipeError as error:
            faults |= {line.replace(f"{COMMAND_LINE}: ", f"{where}: axes: ", 1): None for line in error.faults}
    if faults:
        raise RecipeError(list(faults))
    return tuple(points)


def _recipe_of(layer: Layer, setting: Setting) -> Recipe:
    """The recipe at one point; what names a method near the top goes first, since it clears what stands below it."""
    ordered = sorted(setting.overrides.items(), key=lambda item: item[0].count("."))
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in ordered]
    recipe = check_layer(layer, texts)
    if setting.models is None:
        return recipe
    return recipe.model_copy(update={"models": tuple(recipe.model_named(name) for name in setting.models)})


def _dataset_content(path: str) -> dict[str, Any]:
    """All that a dataset file says.

    Raises:
        RequestError: it is missing.
        RecipeError: it has faults.
    """
    return load_spec(path).model_dump(mode="json")


def _scoring_faults(loaded: LoadedSweep, recipe: Recipe) -> list[str]:
    """`select.per` names axes that there are, and what `select` and `report` need can be scored."""
    where, select = loaded.path, loaded.sweep.select
    faults = [
        f"{where}: select.per: no axis {name!r}; one of {', '.join(loaded.axes)} would be right"
        for name in select.per
        if name not in loaded.axes
    ]
    bare = {model.name for point in loaded.points for model in point.recipe.models if model.data is None}
    if bare:
        faults.append(
            f"{where}: models {', '.join(sorted(bare))}: no data; a dataset file for each would be right, since points "
            "are scored on the data of their models"
        )
    if select.metric == "mean_relative" and not recipe.evaluate.individual:
        faults.append(
            f"{where}: select.metric: mean_relative compares with the models' own scores, and evaluate.individual is "
            "false; select.metric: mean, or evaluate.individual: true would be right"
        )
    return faults
