"""Training recipes: several runs over tasks, with settings in common (docs/training.md lists every key).

They are layered, overridden and checked like the recipes of merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, RootModel, ValidationError, field_validator

from mats.errors import RecipeError, RequestError
from mats.recipes.faults import explain
from mats.recipes.layers import Layer, load_layers
from mats.recipes.overrides import apply_overrides
from mats.recipes.sections import DEVICE_PATTERN, Section
from mats.training.settings import TrainingSettings

LENGTHS = ("epochs", "updates")
"""Two ways to say how long a run is; a run's own takes the place of either."""


class TrainingRun(Section):
    """One model to train. A bare path, or a list of paths, stands for `{data: …}`."""

    data: tuple[str, ...] = Field(
        min_length=1, description="Dataset file, or several for a mixture; a mixture file stands for those it lists."
    )
    base: str | None = Field(default=None, min_length=1, description="Model to start from, in place of the recipe's.")
    heads: Literal["one", "per_dataset"] = Field(
        default="one", description="One head for all datasets, or one for each on a body that all train together."
    )
    output: str | None = Field(
        default=None, min_length=1, description="Folder of the result. Default: the run's name below the recipe's."
    )
    train: TrainingSettings = Field(
        default=TrainingSettings(), description="Settings that differ from the recipe's `train`."
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """A single path where a list is meant."""
        return [value] if isinstance(value, str) else value


class TrainingRuns(RootModel[dict[str, TrainingRun]]):
    """Run name → run."""

    @classmethod
    def known_fields(cls, data: Any) -> dict[str, Any]:
        """The names that are there: overrides change runs, they do not make new ones."""
        return {str(name): TrainingRun for name in data} if isinstance(data, Mapping) else {}


class TrainingRecipe(Section):
    """Models to train. Paths are relative to the folder in which the command runs."""

    base: str = Field(min_length=1, description="Model to start from: folder or hub id.")
    train: TrainingSettings = Field(
        default=TrainingSettings(), description="How every run trains, unless it says otherwise."
    )
    runs: TrainingRuns = Field(description="Run name → dataset file(s), and what is special about the run.")
    output: str = Field(default="exp_out/train", min_length=1, description="Folder that each run's folder is put into.")
    device: str = Field(
        default="auto", pattern=DEVICE_PATTERN, description="auto (cuda where there is one), cpu or cuda."
    )

    @field_validator("runs")
    @classmethod
    def _some(cls, runs: TrainingRuns) -> TrainingRuns:
        """Names become folders."""
        if not runs.root:
            raise ValueError("a mapping with at least one run would be right")
        for name in runs.root:
            if name in (".", "..") or not name or set(name) & set("/\\ "):
                raise ValueError(f"run name {name!r}; a name without slashes and spaces would be right")
        return runs


def load_training_recipe(path: str | Path, overrides: Sequence[str] = ()) -> TrainingRecipe:
    """Read a training recipe, what it extends, and overrides such as `train.learning_rate=1e-4`.

    Raises:
        RequestError: a file is missing.
        RecipeError: faults in the files, the overrides or the values; all of them, one line each.
    """
    layer, faults = apply_overrides(_runs_spelt_out(load_layers(Path(path))), overrides, TrainingRecipe)
    try:
        recipe = TrainingRecipe.model_validate(layer.data)
    except ValidationError as error:
        raise RecipeError([*faults, *explain(error, layer, TrainingRecipe)]) from error
    for name in recipe.runs.root:
        try:
            settings_of(recipe, name)
        except RecipeError as error:
            faults.extend(f"{layer.origin(('runs', name))}: {fault}" for fault in error.faults)
    if faults:
        raise RecipeError(faults)
    return recipe


def _runs_spelt_out(layer: Layer) -> Layer:
    """`rte: configs/….yaml` as `rte: {data: configs/….yaml}`."""
    runs = layer.data.get("runs")
    if not isinstance(runs, dict):
        return layer
    spelt = {name: {"data": run} if isinstance(run, (str, list)) else run for name, run in runs.items()}
    return Layer({**layer.data, "runs": spelt}, layer.origins)


def settings_of(recipe: TrainingRecipe, name: str) -> TrainingSettings:
    """How a run trains: the recipe's settings with its own laid over them.

    Raises:
        RecipeError: the two do not go together.
    """
    common = recipe.train.model_dump(exclude_unset=True)
    own = recipe.runs.root[name].train.model_dump(exclude_unset=True)
    if set(LENGTHS) & own.keys():
        common = {key: value for key, value in common.items() if key not in LENGTHS}
    merged = {**common, **own}
    lower, upper = common.get("tuning"), own.get("tuning")
    if lower and upper and lower.get("method") == upper.get("method"):
        merged["tuning"] = {**lower, **upper}
    try:
        return TrainingSettings.model_validate(merged)
    except ValidationError as error:
        reasons = [str(fault.get("ctx", {}).get("error", fault["msg"])) for fault in error.errors(include_url=False)]
        raise RecipeError([f"runs.{name}.train: {reason}" for reason in reasons]) from error


def select_runs(recipe: TrainingRecipe, names: Sequence[str]) -> tuple[str, ...]:
    """The runs of these names, all of them where there is no name.

    Raises:
        RequestError: a name that the recipe does not have.
    """
    known = recipe.runs.root
    for name in names:
        if name not in known:
            raise RequestError(f"run {name!r}: not in the recipe; one of {', '.join(known)} would be right")
    return tuple(names) or tuple(known)
