"""`key.path=value` on the command line: split at the first `=`, found by the schema, typed by the schema.

A segment of the path is a key, the index of a list, or the name of a model (`models.paws.weight=0.5`). The value is
read as YAML and checked against the type of its place; where a text is wanted, it is taken as it stands (`name=1e3`
stays a word).
Nothing is evaluated.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mats.errors import RecipeError
from mats.recipes.heads import heads_spelt_out
from mats.recipes.layers import KEPT_BESIDE_METHOD, METHOD_KEYS, Layer, model_name
from mats.recipes.schema_walk import annotation_at, fields_at, has_free_keys, is_list, is_told_by_method, places_of
from mats.yaml_reader import KeyPath, parse_value

COMMAND_LINE = "command line"


def apply_overrides(layer: Layer, overrides: Sequence[str], schema: type[BaseModel]) -> tuple[Layer, list[str]]:
    """`layer` with each override applied; those that name a `method` go first, since they decide what other keys mean.

    Returns:
        The new layer, and a line for every override that could not be applied: no `=`, or a path that the schema does
        not have, with the nearest that it has.
    """
    faults: list[str] = []
    result = Layer(deepcopy(layer.data), dict(layer.origins))
    split: list[tuple[str, str]] = []
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path.strip():
            faults.append(f"{COMMAND_LINE}: received {override!r}; key.path=value would be right")
        else:
            split.append((path.strip(), value))
    for path, value in sorted(split, key=lambda item: item[0].split(".")[-1] != "method"):
        try:
            _apply(result, path, value, schema)
        except RecipeError as error:
            faults.extend(error.faults)
    return result, faults


def _apply(layer: Layer, path: str, text: str, schema: type[BaseModel]) -> None:
    """Set one value in `layer`, in place."""
    at = _resolve(layer.data, path.split("."), path, schema)
    annotation = annotation_at(schema, layer.data, at)
    value = _typed(text, annotation, f"{COMMAND_LINE}: {path}")
    target: Any = layer.data
    for position, part in enumerate(at[:-1]):
        below = target[part] if isinstance(part, int) else target.get(part)
        if not isinstance(below, (dict, list)):
            below = _spelt_out(at[: position + 1], below)
            target[part] = below
            layer.origins[at[: position + 1]] = f"{COMMAND_LINE}: {path}"
        target = below
    if at[-1] == "method" and isinstance(target, dict) and target.get("method") != value:
        _drop_settings(target, layer, at[:-1])
    _forget(layer, at)
    target[at[-1]] = value
    layer.origins[at] = COMMAND_LINE


def _spelt_out(at: KeyPath, value: Any) -> dict[str, Any]:
    """The mapping that a bare word stands for: a model's path, the name of a method, or what becomes of heads."""
    if not isinstance(value, str):
        return {}
    if at == ("heads",):
        return heads_spelt_out(value)
    return {"method": value} if at[-1] in METHOD_KEYS else {"path": value}


def _drop_settings(section: dict[str, Any], layer: Layer, at: KeyPath) -> None:
    """Another method: the settings of the former one mean nothing to it."""
    for key in [key for key in section if key not in KEPT_BESIDE_METHOD]:
        del section[key]
        _forget(layer, (*at, key))


def _forget(layer: Layer, at: KeyPath) -> None:
    for known in [known for known in layer.origins if known[: len(at)] == at]:
        del layer.origins[known]


def _resolve(data: Any, segments: list[str], whole: str, schema: type[BaseModel]) -> KeyPath:
    """The key path meant by the dotted words: list positions found by index or model name (which may hold dots)."""
    at: tuple[str | int, ...] = ()
    here: Any = data
    rest = list(segments)
    while rest:
        if here is None and is_list(annotation_at(schema, data, at)):
            here = []
        if isinstance(here, list):
            index, used = _index(here, rest, whole, at)
            at, here, rest = (*at, index), here[index], rest[used:]
            continue
        fields = fields_at(schema, data, at)
        key = rest[0]
        if fields is None and key == "method" and is_told_by_method(annotation_at(schema, data, at)):
            fields = {key: str}  # the method that decides which other keys there are
        free = fields is None and has_free_keys(annotation_at(schema, data, at))
        if not free and (fields is None or key not in fields):
            raise RecipeError([f"{COMMAND_LINE}: {whole}: {unknown_key(key, fields, schema, data)}"])
        at, here, rest = (*at, key), here.get(key) if isinstance(here, dict) else None, rest[1:]
    return at


def _index(entries: list[Any], rest: list[str], whole: str, at: KeyPath) -> tuple[int, int]:
    """Position in a list, and how many words named it."""
    names = [model_name(entry) for entry in entries] if at == ("models",) else []
    for used in range(len(rest), 0, -1):
        if ".".join(rest[:used]) in names:
            return names.index(".".join(rest[:used])), used
    if rest[0].isdigit() and int(rest[0]) < len(entries):
        return int(rest[0]), 1
    known = [name for name in names if name is not None]
    near = difflib.get_close_matches(rest[0], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; names: {', '.join(known)}" if known else ""
    there = f"indices 0 to {len(entries) - 1}" if entries else "no list is written there yet; give it whole"
    raise RecipeError(
        [f"{COMMAND_LINE}: {whole}: nothing called {rest[0]!r} in {'.'.join(map(str, at))} ({there}){hint}"]
    )


def unknown_key(key: str, fields: dict[str, Any] | None, schema: type[BaseModel], data: Any) -> str:
    """The fault of a key that is not known where it stands: the nearest known one, or the place where it belongs."""
    if fields is None:
        return f"{key!r} stands below a value that has no keys, or whose method is not named yet"
    near = difflib.get_close_matches(key.replace("-", "_").lower(), list(fields), n=1, cutoff=0.6)
    elsewhere = places_of(schema, key, data)
    if elsewhere:
        return f"unknown key {key!r} here; it belongs to {' or '.join(elsewhere[:3])}"
    if near:
        return f"unknown key {key!r}; did you mean {near[0]!r}?"
    return f"unknown key {key!r}; known: {', '.join(fields)}"


def _typed(text: str, annotation: Any, where: str) -> Any:
    """The first reading of `text` that fits: as YAML, or as the plain words it is made of."""
    readings: list[Any] = []
    try:
        parsed = parse_value(text)
        if not isinstance(parsed, str) or text.lstrip()[:1] in ("'", '"'):
            readings.append(parsed)
    except ValueError as error:
        if text.lstrip()[:1] in ("[", "{"):
            raise RecipeError([f"{where}: received {text!r}: {error}"]) from error
    readings.append(text)
    if len(readings) > 1 and _fits(readings[1], annotation) and not _fits(readings[0], annotation):
        return readings[1]
    return readings[0]


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value, or a single word where a list of words is meant, suits the annotation."""
    if annotation is None:
        return False
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except Exception:  # a section brings its own configuration
        return False
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
