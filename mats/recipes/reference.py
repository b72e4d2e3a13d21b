"""The reference of recipe keys, from the schema: `python -m mats.recipes.reference` prints it for docs/recipes.md."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mats.methods.quadratic import QuadraticSettings, SolverChoice
from mats.methods.registry import method_names
from mats.methods.settings import registered_settings
from mats.recipes.adapters import AdaptersSection
from mats.recipes.flat import DEFAULT_METHOD, FlatMethodSection
from mats.recipes.heads import HeadsSection
from mats.recipes.schema import MergeSection, Recipe, RuleEntry
from mats.recipes.sections import CurvatureSection, EvaluateSection, ModelEntry
from mats.recipes.sparsify import SparsifySection
from mats.recipes.vocabulary import TokenizerSection, TokenRowSection, TokenSection

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The recipe", Recipe),
    ("`models`: one entry", ModelEntry),
    ("`heads`", HeadsSection),
    ("`sparsify`", SparsifySection),
    ("`tokenizer`", TokenizerSection),
    ("`tokenizer.tokens`: one entry", TokenSection),
    ("`tokenizer.tokens`: one row", TokenRowSection),
    ("`adapters`", AdaptersSection),
    ("`curvature`", CurvatureSection),
    ("`merge`", MergeSection),
    ("`merge.rules`: one entry", RuleEntry),
    ("`evaluate`", EvaluateSection),
)


METHODS = method_names()


def tables() -> str:
    """All tables in Markdown: the sections, then each method's settings, then the solver's."""
    parts = [table(title, model) for title, model in SECTIONS]
    for name in METHODS:
        settings = registered_settings()[name]
        own = _own_rows(settings) if issubclass(settings, QuadraticSettings) else list(_rows(settings))
        parts.append(_section(f"`method: {name}`", own, note=_first_sentence(settings)))
    parts.append(_section("Keys of `fisher`, `regmean` and `mats`", _shared_rows()))
    parts.append(_section("`merge.solver`", list(_rows(SolverChoice))))
    return "\n".join(parts)


def _shared_rows() -> list[str]:
    """The keys of all quadratic methods; where each has a default of its own, the method's table says it."""
    return [row.replace("| required |", "| by method |") for row in _rows(QuadraticSettings)]


def _own_rows(settings: type[QuadraticSettings]) -> list[str]:
    """Where a quadratic method differs from the keys it shares with its siblings: defaults."""
    shared = set(_rows(QuadraticSettings))
    return [row for row in _rows(settings) if row not in shared]


def table(title: str, model: type[BaseModel]) -> str:
    """One section of a schema in Markdown."""
    return _section(title, list(_rows(model)))


def _section(title: str, rows: list[str], note: str = "") -> str:
    head = f"### {title}\n" + (f"\n{note}\n" if note else "")
    if not rows:
        return f"{head}\nNo keys of its own.\n"
    lines = ["Key | Type | Default | Meaning", "---|---|---|---", *rows]
    return f"{head}\n" + "\n".join(lines) + "\n"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in ("settings", "method"):
            continue
        meaning = (field.description or "").replace("|", "\\|")
        yield f"`{field.alias or name}` | {_type(field.annotation)} | {_default(field)} | {meaning}"
    if issubclass(model, FlatMethodSection):
        default = f"`{model.default_method}`" if model.default_method else "required"
        yield f"`method` | word | {default} | How parameters are merged: {', '.join(METHODS)}."
        yield "… | | | The settings of that method, beside these keys."


def _type(annotation: Any) -> str:
    """A type in a reader's words."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members = [_type(member) for member in typing.get_args(annotation)]
        return " or ".join(dict.fromkeys(members))
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in typing.get_args(annotation))
    if origin is tuple:
        return f"list of {_type(typing.get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true/false", type(None): "null"}
    return names.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return f"`{{method: {DEFAULT_METHOD}}}`"
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        named = getattr(value, "method", None)
        return f"`{named}`" if named is not None else "its defaults"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _first_sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    print(tables())
