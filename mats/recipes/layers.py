"""Recipes in layers: `extends:`, deep merging, and where each key came from.

Later layers win: the files under `extends`, in order, then the file itself, then overrides. Mappings merge key by key;
lists and values replace. Two exceptions keep a layered recipe meaning what it says:

* `models` may be a mapping from name to fields; over a list it changes the models of those names and adds new ones.
* `method` decides what its sibling keys mean. A layer that names another method starts from that method's defaults: the
  settings below it are dropped (`rules` and `preset`, which belong to no method, stay).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mats.errors import RecipeError
from mats.recipes.heads import heads_spelt_out
from mats.yaml_reader import KeyPath, dotted, read_yaml

KEPT_BESIDE_METHOD = ("rules", "preset", "parameters")
"""Keys next to `method` that hold for every method."""

METHOD_KEYS = ("merge", "init", "outside", "tuning")
"""Keys under which the bare name of a method stands for that method with its defaults."""


@dataclass(frozen=True)
class Layer:
    """Plain data, and for each of its key paths the place it was written (`recipe.yaml:7`)."""

    data: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where `path` was written, or else the nearest key above it."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, "recipe")


def load_layers(path: Path) -> Layer:
    """The recipe file `path` with everything it extends, merged; `extends` is relative to the file that says it.

    Raises:
        RequestError: a file is missing.
        RecipeError: a file is no recipe, or the files extend each other in a circle.
    """
    return _load(path, ())


def _load(path: Path, above: tuple[Path, ...]) -> Layer:
    resolved = path.resolve()
    if resolved in above:
        circle = " → ".join(str(step) for step in (*above[above.index(resolved) :], resolved))
        raise RecipeError([f"{path}: extends: goes in a circle: {circle}"])
    file = read_yaml(path)
    return extended_layer(
        file.data, {at: f"{path}:{line}" for at, line in file.lines.items()}, path, (*above, resolved)
    )


def extended_layer(
    data: dict[str, Any], origins: dict[KeyPath, str], path: Path, above: tuple[Path, ...] = ()
) -> Layer:
    """A recipe's data over whatever its `extends` names.

    Args:
        data: keys and values as they were written.
        origins: where each was written.
        path: the file that holds them; `extends` is relative to it.
        above: the files that led here.

    Raises:
        RequestError, RecipeError: as `load_layers`.
    """
    own = {key: value for key, value in data.items() if key != "extends"}
    layer = named_models(Layer(own, origins))
    below: Layer | None = None
    for parent in _parents(path, data.get("extends"), layer.origin(("extends",))):
        lower = _load(parent, above)
        below = lower if below is None else merge_layers(below, lower)
    return layer if below is None else merge_layers(below, layer)


def _parents(path: Path, value: Any, origin: str) -> list[Path]:
    """The files named by `extends`."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RecipeError(
            [f"{origin}: extends: received {value!r}; a file name or a list of file names would be right"]
        )
    return [path.parent / name for name in names]


def named_models(layer: Layer) -> Layer:
    """`models: {paws: {path: …}}` and `models: [path]` as data in which every entry is a mapping with its name."""
    models = layer.data.get("models")
    if not isinstance(models, dict):
        return layer
    entries = []
    origins = {at: where for at, where in layer.origins.items() if at[:1] != ("models",) or len(at) == 1}
    for index, (name, value) in enumerate(models.items()):
        entries.append({"name": name, **_as_fields(value)})
        origins[("models", index, "name")] = layer.origin(("models", name))
        for at, where in layer.origins.items():
            if at[:2] == ("models", name):
                here = ("models", index, *at[2:])
                origins[here] = where
    return Layer({**layer.data, "models": _ByName(entries)}, origins)


class _ByName(list[Any]):
    """A list of models that was written as a mapping: over a list, it merges by name."""


def _as_fields(value: Any) -> dict[str, Any]:
    """The fields of a model given by name: a mapping, or a bare path."""
    if isinstance(value, dict):
        return value
    return {} if value is None else {"path": value}


def merge_layers(lower: Layer, upper: Layer) -> Layer:
    """`upper` over `lower`; neither is changed."""
    origins: dict[KeyPath, str] = {}
    data = _merge(lower.data, upper.data, (), (), (), lower, upper, origins)
    return Layer(data, origins)


def _copy(value: Any, source: KeyPath, target: KeyPath, layer: Layer, origins: dict[KeyPath, str]) -> Any:
    """`value` as it is, with the origins of everything below it moved from `source` to `target`."""
    for at, where in layer.origins.items():
        if at[: len(source)] == source:
            here = (*target, *at[len(source) :])
            origins[here] = where
    return value


def _merge(
    low: Any,
    up: Any,
    low_at: KeyPath,
    up_at: KeyPath,
    at: KeyPath,
    lower: Layer,
    upper: Layer,
    origins: dict[KeyPath, str],
) -> Any:
    """Merge two values that stand at `low_at` and `up_at`, noting origins under `at`."""
    if isinstance(low, str) and isinstance(up, dict) and up_at and up_at[-1] in METHOD_KEYS:
        low = {"method": low}
    if isinstance(low, str) and isinstance(up, dict) and up_at == ("heads",):
        low = heads_spelt_out(low)
    if up_at == ("models",) and isinstance(up, _ByName) and isinstance(low, list):
        return _merge_models(low, up, lower, upper, origins)
    if not (isinstance(low, dict) and isinstance(up, dict)):
        return _copy(up, up_at, at, upper, origins)
    if up_at in upper.origins:
        origins[at] = upper.origins[up_at]
    elif low_at in lower.origins:
        origins[at] = lower.origins[low_at]
    if "method" in up and "method" in low and up["method"] != low["method"]:
        low = {key: value for key, value in low.items() if key in KEPT_BESIDE_METHOD}
    merged: dict[str, Any] = {}
    for key in [*low, *(key for key in up if key not in low)]:
        here = (*at, key)
        if key not in up:
            merged[key] = _copy(low[key], (*low_at, key), here, lower, origins)
        elif key not in low:
            merged[key] = _copy(up[key], (*up_at, key), here, upper, origins)
        else:
            merged[key] = _merge(low[key], up[key], (*low_at, key), (*up_at, key), here, lower, upper, origins)
    return merged


def _merge_models(low: list[Any], up: _ByName, lower: Layer, upper: Layer, origins: dict[KeyPath, str]) -> list[Any]:
    """Models by name: those known are changed, new ones are added at the end."""
    upper_index = {entry["name"]: index for index, entry in enumerate(up)}
    merged: list[Any] = []
    for index, entry in enumerate(low):
        here: KeyPath = ("models", index)
        at = upper_index.pop(model_name(entry), None)
        if at is None:
            merged.append(_copy(entry, here, here, lower, origins))
        else:
            fields = entry if isinstance(entry, dict) else _as_fields(entry)
            merged.append(_merge(fields, up[at], here, ("models", at), here, lower, upper, origins))
    for at in upper_index.values():
        merged.append(_copy(up[at], ("models", at), ("models", len(merged)), upper, origins))
    origins[("models",)] = upper.origin(("models",))
    return _ByName(merged) if isinstance(low, _ByName) else merged


def model_name(entry: Any) -> str | None:
    """The name that an entry of `models` has or will get; None if it is no model."""
    if isinstance(entry, str):
        return Path(entry).name
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    if name is None and isinstance(entry.get("path"), str):
        name = Path(entry["path"]).name
    return name if isinstance(name, str) else None


def shown(path: KeyPath, data: Any) -> str:
    """A key path for people: models by name, as overrides take them (`models.paws.weight`)."""
    if len(path) >= 2 and path[0] == "models" and isinstance(path[1], int):
        models = data.get("models") if isinstance(data, dict) else None
        name = model_name(models[path[1]]) if isinstance(models, list) and path[1] < len(models) else None
        return dotted(("models", name if name is not None else path[1], *path[2:]))
    return dotted(path)
