"""Finding one's way in the schema: which keys may stand at a place, and what type a value there has."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel

from mats.yaml_reader import KeyPath

Fields = dict[str, Any]
"""Key → annotation of its value."""


def fields_at(root: type[BaseModel], data: Any, path: KeyPath) -> Fields | None:
    """The keys that may stand in the mapping at `path` of a recipe; None where no mapping is expected.

    Args:
        root: the schema of the whole.
        data: the recipe as plain data; it decides between schemas where a key such as `method` tells them apart.
        path: keys and list indices from the top.
    """
    annotation, value = _descend(root, data, path)
    model = _model_of(annotation, value)
    return None if model is None else _fields(model, value)


def annotation_at(root: type[BaseModel], data: Any, path: KeyPath) -> Any | None:
    """The type of the value at `path`; None where the schema has no such place."""
    annotation, _ = _descend(root, data, path)
    return annotation


def _descend(root: type[BaseModel], data: Any, path: KeyPath) -> tuple[Any | None, Any]:
    annotation: Any | None = root
    value = data
    for part in path:
        model = _model_of(annotation, value)
        if isinstance(part, int):
            annotation = _item_of(annotation)
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif model is not None or has_free_keys(annotation):
            annotation = _free_value_of(annotation) if model is None else _fields(model, value).get(part)
            value = value.get(part) if isinstance(value, Mapping) else None
        else:
            return None, None
        if annotation is None:
            return None, None
    return annotation, value


def _fields(model: type[BaseModel], value: Any) -> Fields:
    """The keys of a schema; sections that also take a method's keys answer for themselves."""
    known = getattr(model, "known_fields", None)
    if known is not None:
        return dict(known(value))
    return {name: field.annotation for name, field in model.model_fields.items()}


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of unions, with `Annotated` taken off, depth first."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in typing.get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _model_of(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The schema among the alternatives of an annotation; where there are several, the one whose `method` is named."""
    models = [
        member for member in _alternatives(annotation) if isinstance(member, type) and issubclass(member, BaseModel)
    ]
    if len(models) <= 1:
        return models[0] if models else None
    named = value.get("method") if isinstance(value, Mapping) else value
    for model in models:
        field = model.model_fields.get("method")
        if (
            field is not None
            and typing.get_origin(field.annotation) is Literal
            and named in typing.get_args(field.annotation)
        ):
            return model
    return None


def _item_of(annotation: Any) -> Any | None:
    """The type of a list's items."""
    for member in _alternatives(annotation):
        if typing.get_origin(member) in (tuple, list):
            return typing.get_args(member)[0]
    return None


def _free_value_of(annotation: Any) -> Any | None:
    """The type of the values of a mapping whose keys are the user's own."""
    for member in _alternatives(annotation):
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
    return None


def has_free_keys(annotation: Any) -> bool:
    """Whether a mapping whose keys are the user's own may stand where this annotation holds."""
    return _free_value_of(annotation) is not None


def is_list(annotation: Any) -> bool:
    """Whether a list may stand where this annotation holds."""
    return _item_of(annotation) is not None


def is_told_by_method(annotation: Any) -> bool:
    """Whether one of several schemas may stand where this annotation holds, told apart by the key `method`."""
    models = [each for each in _alternatives(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    return len(models) > 1 and all("method" in model.model_fields for model in models)


def places_of(root: type[BaseModel], key: str, data: Any) -> list[str]:
    """Where in the recipe `key` may stand, for keys at the wrong depth: `["models.<name>.weight"]` for `weight`."""
    found: list[str] = []
    _search(root, data, key, "", found, 0)
    return found


def _search(annotation: Any, value: Any, key: str, prefix: str, found: list[str], depth: int) -> None:
    model = _model_of(annotation, value)
    item = _item_of(annotation)
    if model is None and item is not None:
        first = value[0] if isinstance(value, list) and value else None
        _search(item, first, key, f"{prefix}<name>." if prefix == "models." else f"{prefix}<number>.", found, depth)
        return
    if model is None or depth > 4:
        return
    for name, inner in _fields(model, value).items():
        if name == key:
            found.append(f"{prefix}{name}")
        below = value.get(name) if isinstance(value, Mapping) else None
        _search(inner, below, key, f"{prefix}{name}.", found, depth + 1)
