"""DEM's JSON (arXiv 2406.15570): a formula over models, with constants that may each take several values.

    {"formula": "c + w*(a - c)", "models": [{"path": …, "operand_id": "a", "weight": 1}, …],
     "constants": [{"operand_id": "w", "constant_type": "range", "min_value": 0, "max_value": 1, "n_values": 5}]}

One run, or a list of runs. Comments (`#`, `//`) may stand outside strings. Every run becomes recipes with `method:
formula`, one for each combination of its constants (`mats.recipes.dem_constants`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from mats.errors import RecipeError, RequestError
from mats.methods.formula_parser import reduce_formula
from mats.recipes.dem_constants import Constant, combinations, folder_name
from mats.recipes.sections import Section

DEFAULT_SEED = 42  # DEM's
MISSING = {"no": "error", "copy": "copy", "zeros": "zeros", "ones": "ones"}
"""DEM's words for tensors that a model lacks → ours."""


class DemModel(Section):
    """One model of a run."""

    path: str = Field(min_length=1)
    operand_id: str = Field(min_length=1)
    weight: float = 1.0


class DemRun(Section):
    """One formula over models."""

    formula: str = Field(min_length=1)
    models: tuple[DemModel, ...] = Field(min_length=1)
    constants: tuple[Constant, ...] = ()
    combination_id: str = ""
    missing_weights_init: Literal["no", "copy", "zeros", "ones"] = "no"

    @field_validator("combination_id")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        """It becomes a folder below the output, and no other place."""
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError("the name of a folder below the output would be right")
        return value

    @model_validator(mode="after")
    def _one_meaning_for_each_name(self) -> DemRun:
        """A name stands for one model or one constant."""
        names = [model.operand_id for model in self.models]
        names += [name for constant in self.constants for name in constant.names]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"operand_id {name!r} is given {names.count(name)} times; names must differ")
        return self


@dataclass(frozen=True)
class DemMerge:
    """One merge that a file asks for.

    Attributes:
        folder: below the output, of its run and its constants; empty where there is but one.
        data: the recipe as plain data, without an output.
    """

    folder: str
    data: dict[str, Any]


def read_dem(path: str | Path, seed: int = DEFAULT_SEED) -> list[DemMerge]:
    """Every merge that a DEM file asks for, in order.

    Args:
        path: the JSON file.
        seed: of constants that are drawn.

    Raises:
        RequestError: the file is missing.
        RecipeError: it is no JSON, has faults, or two runs would have one folder.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: not UTF-8 text at byte {error.start}; a JSON file would be right"]) from error
    try:
        content = json.loads(without_comments(text))
    except (json.JSONDecodeError, RecursionError) as error:
        where = (
            f":{error.lineno}:{error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ": too deep"
        )
        raise RecipeError([f"{path}{where}; JSON, with comments after # or // if need be, would be right"]) from error
    runs = _runs(path, content)
    merges = [merge for run in runs for merge in _merges(path, run, seed, alone=len(runs) == 1)]
    return [DemMerge("", merges[0].data)] if len(merges) == 1 else merges


def without_comments(text: str) -> str:
    """JSON text with blanks in place of comments, so that errors keep their line and column.

    >>> without_comments('{"a": "#1 // x"} # one')
    '{"a": "#1 // x"}      '
    """
    kept: list[str] = []
    inside, comment, at = False, False, 0
    while at < len(text):
        char = text[at]
        if comment:
            comment = char != "\n"
            kept.append(" " if comment else char)
        elif inside:
            step = 2 if char == "\\" else 1
            kept.append(text[at : at + step])
            inside = char != '"'
            at += step - 1
        elif char == "#" or text.startswith("//", at):
            comment = True
            kept.append(" ")
        else:
            inside = char == '"'
            kept.append(char)
        at += 1
    return "".join(kept)


def _runs(path: Path, content: Any) -> list[DemRun]:
    written = content if isinstance(content, list) else [content]
    runs, faults = [], []
    for number, entry in enumerate(written):
        place = f"{path}: " + (f"run {number}: " if isinstance(content, list) else "")
        try:
            runs.append(TypeAdapter(DemRun).validate_python(entry))
        except ValidationError as error:
            faults += [f"{place}{_told(fault)}" for fault in error.errors(include_url=False)]
    if not written:
        faults.append(f"{path}: received []; a run, or a list of runs, would be right")
    names = [run.combination_id for run in runs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            faults.append(f"{path}: combination_id {name!r} is given {names.count(name)} times; names must differ")
    if faults:
        raise RecipeError(faults)
    return runs


def _told(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    received = (
        "" if fault["type"] == "missing" or isinstance(fault["input"], Mapping) else f" (received {fault['input']!r})"
    )
    return f"{place + ': ' if place else ''}{fault['msg'].removeprefix('Value error, ')}{received}"


def _merges(path: Path, run: DemRun, seed: int, *, alone: bool) -> list[DemMerge]:
    """The merges of one run, their folders told apart by the run where it is not alone, and by the constants."""
    try:
        points = combinations(run.constants, seed)
        leftmost = next(iter(reduce_formula(run.formula, points[0]).columns))
    except RequestError as error:
        raise RecipeError([f"{path}: {run.combination_id or 'the run'}: {error}"]) from error
    above = "" if alone and not run.combination_id else run.combination_id
    merges = []
    for point in points:
        below = folder_name(point) if len(points) > 1 else ""
        merges.append(DemMerge("/".join(part for part in (above, below) if part), _recipe(run, point, leftmost)))
    return merges


def _recipe(run: DemRun, constants: Mapping[str, float], leftmost: str) -> dict[str, Any]:
    """The recipe of one merge; the first model, whose configuration the result has, is the leftmost of the formula."""
    models = sorted(run.models, key=lambda model: model.operand_id != leftmost)
    return {
        "models": [{"name": model.operand_id, "path": model.path, "weight": model.weight} for model in models],
        "missing": MISSING[run.missing_weights_init],
        "merge": {"method": "formula", "formula": run.formula, "constants": dict(constants)},
    }
