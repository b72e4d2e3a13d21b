"""What is wrong with a file that pydantic refused: one line per fault, with the nearest key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

VARIANTS = ("json_lines", "csv", "arrays", "hub", "int", "float", "str", "ColumnChoices")


def faults_in_file(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """One line per fault: file, key, the value received, what would be right. Alternatives of one key share a line.

    Args:
        error: What pydantic said.
        where: The file, to begin each line with.
        model: What the file was read as.
    """
    faults: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        location = [str(part) for part in detail["loc"] if not _is_variant(part)]
        prefix = f"{where}: {'.'.join(location)}: " if location else f"{where}: "
        if detail["type"] == "extra_forbidden":
            faults[f"{prefix}unknown key{_nearest_key(location, model)}"] = []
        elif detail["type"] == "missing":
            faults[f"{prefix}missing"] = []
        elif detail["type"] == "value_error":
            faults.update({prefix + line: [] for line in str(detail["ctx"]["error"]).splitlines()})
        else:
            received = repr(detail["input"])
            shown = received if len(received) <= 60 else received[:57] + "…"
            faults.setdefault(f"{prefix}{shown}; ", []).append(_plain_words(detail["msg"]))
    return [fault + " or ".join(dict.fromkeys(alternatives)) for fault, alternatives in faults.items()]


def _is_variant(part: str | int) -> bool:
    """Whether a step of pydantic's location names a member of a union rather than a key of the file."""
    return isinstance(part, str) and (
        part in VARIANTS or part.startswith(("tuple[", "literal[", "constrained-", "function-"))
    )


def _nearest_key(location: Sequence[str], model: type[BaseModel]) -> str:
    """The nearest key allowed beside an unknown one."""
    known = sorted({name for found in _models_at(location[:-1], model) for name in found.model_fields})
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    return f"; nearest: {near[0]}" if near else f"; known here: {', '.join(known)}" if known else ""


def _models_at(location: Sequence[str], model: type[BaseModel]) -> list[type[BaseModel]]:
    """The pydantic models that a location may lead to."""
    models: list[type[BaseModel]] = [model]
    for step in location:
        if step.isdecimal():
            continue
        fields = [found.model_fields[step].annotation for found in models if step in found.model_fields]
        models = [found for annotation in fields for found in _models_in(annotation)] or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation mentions."""
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _plain_words(message: str) -> str:
    """Pydantic's message in the words of YAML."""
    message = re.sub(r" or instance of \w+|, unable to parse .*", "", message.replace("tuple", "list"))
    return (message[:1].lower() + message[1:]).replace("dictionary", "mapping")
