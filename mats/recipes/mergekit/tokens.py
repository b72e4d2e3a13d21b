"""The tokenizer keys of merge files, as the keys of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mats.errors import RecipeError
from mats.recipes.mergekit.references import ModelReference, parse_reference
from mats.recipes.mergekit.schema import MergeFile

if TYPE_CHECKING:
    from mats.engine.request import ModelInput


def vocabulary_keys(file: MergeFile, models: Mapping[ModelReference, ModelInput]) -> dict[str, Any]:
    """`tokenizer` and `chat_template` of a request; without either key, vocabularies must be the same.

    Raises:
        RecipeError: an unknown key or model, or a wrong value.
    """
    from mats.recipes.vocabulary import TokenizerSection, vocabulary_of

    data = file.file.data
    keys: dict[str, Any] = {}
    if data.get("chat_template") is not None:
        keys["chat_template"] = data["chat_template"]
    given = data.get("tokenizer")
    if data.get("tokenizer_source") is not None:
        given = {"source": data["tokenizer_source"]}
    if given is None:
        return keys
    names = {reference: model.name for reference, model in models.items()}
    if file.base is not None:
        names[file.base] = "base"
    try:
        section = TokenizerSection.model_validate(_named(given, names))
    except ValidationError as error:
        raise RecipeError(
            [
                f"{file.file.path}: {'.'.join(['tokenizer', *map(str, fault['loc'])])}: {fault['msg']}"
                for fault in error.errors()
            ]
        ) from error
    return {**keys, "tokenizer": vocabulary_of(section)}


def _named(value: Any, names: Mapping[ModelReference, str]) -> Any:
    """Models as the request calls them, wherever a tokenizer's section names one."""
    if not isinstance(value, dict):
        return value
    result = dict(value)
    if isinstance(value.get("source"), (str, dict)):
        result["source"] = _source(value["source"], names)
    if isinstance(value.get("tokens"), dict):
        result["tokens"] = {
            token: {**entry, "source": _source(entry["source"], names)}
            if isinstance(entry, dict) and entry.get("source") is not None
            else entry
            for token, entry in value["tokens"].items()
        }
    return result


def _source(value: Any, names: Mapping[ModelReference, str]) -> Any:
    """`union` and `base` stay; a model becomes its name; `{kind: model_token, model: …}` has its model named."""
    if isinstance(value, str):
        return value if value in ("union", "base") else names.get(parse_reference(value), value)
    if isinstance(value, dict) and isinstance(value.get("model"), str):
        return {**value, "model": names.get(parse_reference(value["model"]), value["model"])}
    return value
