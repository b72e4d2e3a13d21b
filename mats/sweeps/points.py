"""A point of a sweep: a setting of the axes, the recipe it amounts to, and the digest by which its folder is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from mats.recipes.schema import Recipe
from mats.sweeps.axis import COUNT, MODELS

ITERATIONS = "merge.solver.max_iterations"
NOT_IDENTIFYING = ("output", "device", "memory_budget", "max_shard_size")
"""Keys of a recipe that change where and how a result is made, not what it is."""
DIGEST_LENGTH = 12  # hex digits: 48 bits, no collision among any number of points that could be run


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        number: its place in the sweep, from 1.
        columns: axis → value, as tables show it.
        recipe: everything resolved; `output` is set where the point's folder is known.
        digest: equal for points whose results must be equal, whatever axes they stand on.
    """

    number: int
    columns: Mapping[str, Any]
    recipe: Recipe
    digest: str

    @property
    def label(self) -> str:
        """The point in words: `scale=0.3, density=0.2`."""
        return ", ".join(f"{name.split('.')[-1]}={shown_value(value)}" for name, value in self._told().items()) or "–"

    def _told(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.columns.items() if not (name == COUNT and MODELS in self.columns)}


def shown_value(value: Any) -> str:
    """A value of an axis on one line: words and numbers bare, the rest as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def digest_of(recipe: Recipe, content: Callable[[str], Any]) -> str:
    """What identifies a point: its recipe and the `content` of its dataset files."""
    written = recipe.as_written()
    identity = {key: value for key, value in written.items() if key not in NOT_IDENTIFYING}
    identity["evaluate"] = {
        key: value for key, value in written["evaluate"].items() if key not in ("split", "output", "batch_size")
    }
    data = {model.name: content(model.data) for model in recipe.models if model.data is not None}
    return digest({"recipe": identity, "data": data})


def digest(value: Any) -> str:
    """Hex digits of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())[:DIGEST_LENGTH]


def input_signature(*sources: str | None) -> dict[str, Any]:
    """What local checkpoints and stores look like from outside: file → [bytes, time of change in ns].

    Kept with a result, so that a sweep that goes on after a model was trained anew makes its points anew. Checkpoints
    on the hub have none.
    """
    found = {}
    for source in sources:
        place = None if source is None else Path(source)
        if place is None or not place.exists():
            continue
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            if file.is_file():
                state = file.stat()
                found[str(file)] = [state.st_size, state.st_mtime_ns]
    return found


def recipe_signature(recipe: Recipe) -> dict[str, Any]:
    """The signature of everything that a recipe merges."""
    models = recipe.models
    return input_signature(recipe.base, *(model.path for model in models), *(model.metadata for model in models))
