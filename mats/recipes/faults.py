"""What is wrong with a recipe, as lines for its author: where, which key, what was received, what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mats.methods.registry import method_names
from mats.recipes.layers import Layer, shown
from mats.recipes.overrides import unknown_key
from mats.recipes.schema_walk import fields_at
from mats.recipes.sections import DEVICE_PATTERN, DEVICES
from mats.yaml_reader import KeyPath

LONGEST_VALUE = 60  # characters of a received value that are shown


def explain(error: ValidationError, layer: Layer, schema: type[BaseModel]) -> list[str]:
    """One line for each key that is at fault, in the order of the recipe.

    Args:
        error: what pydantic found.
        layer: the recipe as plain data, with the places its keys were written.
        schema: the schema it was checked against.
    """
    grouped: dict[KeyPath, list[Any]] = {}
    for fault in error.errors(include_url=False):
        if fault["type"] == "too_short" and fault["input"]:
            continue  # pydantic counts the items that passed; those that did not are told on their own
        grouped.setdefault(_place(fault, layer.data), []).append(fault)
    placed = [(layer.origin(place), _line(place, faults, layer, schema)) for place, faults in grouped.items()]
    return [f"{origin}: {line}" for origin, line in sorted(placed, key=lambda item: _by_line(item[0]))]


def _by_line(origin: str) -> tuple[str, int]:
    """Order of faults: by file, then by line."""
    file, _, line = origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else (origin, 0)


def _place(fault: Any, data: Any) -> KeyPath:
    """pydantic's location without the tags of unions and the parts that users do not write."""
    place: list[str | int] = []
    here = data
    for position, part in enumerate(fault["loc"]):
        inside_list = isinstance(here, (list, tuple)) and isinstance(part, int) and part < len(here)
        if inside_list or (isinstance(here, dict) and part in here):
            here = here[part]
        elif fault["type"] == "missing" and position == len(fault["loc"]) - 1:
            here = None
        else:
            continue
        place.append(part)
    return tuple(place)


def _line(place: KeyPath, faults: Sequence[Any], layer: Layer, schema: type[BaseModel]) -> str:
    """The fault at one key; several faults there are alternatives of which none was met."""
    kinds = {fault["type"] for fault in faults}
    first = faults[0]
    key = shown(place, layer.data)
    if "extra_forbidden" in kinds:
        above = place[:-1]
        fields = fields_at(schema, layer.data, above)
        where = f"{shown(above, layer.data)}: " if above else ""
        return f"{where}{unknown_key(str(place[-1]), fields, schema, layer.data)}; received {_value(first['input'])}"
    if "missing" in kinds:
        return f"{key}: missing; {_wanted_field(place, layer, schema)}"
    if kinds & {"union_tag_invalid", "union_tag_not_found"}:
        return _method_line(key, first)
    rights = list(dict.fromkeys(_right(fault) for fault in faults))
    hint = _nearest_choice(faults)
    wanted = " or ".join(right.removesuffix(" would be right") for right in rights)
    ending = " would be right" if rights[-1].endswith(" would be right") else ""
    return f"{key or 'recipe'}: received {_value(first['input'])}; {wanted}{ending}{hint}"


def _method_line(key: str, fault: Any) -> str:
    """A method that is not known, or not named."""
    context = fault.get("ctx", {})
    expected = [tag.strip("' ") for tag in str(context.get("expected_tags", "")).split(",") if tag.strip()] or list(
        method_names()
    )
    where = f"{key}.method" if key else "method"
    if fault["type"] == "union_tag_not_found":
        received = fault["input"]
        if not isinstance(received, dict):
            wanted = f"a mapping with the key method (one of {', '.join(expected)})"
            return f"{key}: received {_value(received)}; {wanted} would be right"
        return f"{where}: missing; one of {', '.join(expected)} would be right"
    tag = str(context.get("tag", ""))
    return f"{where}: received {tag!r}; one of {', '.join(expected)} would be right{_nearest(tag, expected)}"


def _right(fault: Any) -> str:
    """What would be right, from one of pydantic's faults."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", fault["msg"]))
    if kind in ("literal_error", "enum"):
        return f"{context['expected']} would be right"
    if kind == "string_pattern_mismatch":
        example = ", ".join(DEVICES) if context["pattern"] == DEVICE_PATTERN else context["pattern"]
        return f"one of {example} would be right"
    plain = {
        "int_parsing": "a whole number would be right",
        "int_type": "a whole number would be right",
        "int_from_float": "a whole number would be right",
        "float_parsing": "a number would be right",
        "float_type": "a number would be right",
        "finite_number": "a finite number would be right",
        "string_type": "text would be right (quote it if it looks like a number)",
        "string_too_short": "a text that is not empty would be right",
        "bool_parsing": "true or false would be right",
        "bool_type": "true or false would be right",
        "tuple_type": "a list would be right",
        "list_type": "a list would be right",
        "model_type": "a mapping of keys to values would be right",
        "model_attributes_type": "a mapping of keys to values would be right",
        "dict_type": "a mapping of keys to values would be right",
        "none_required": "null would be right",
    }
    if kind in plain:
        return plain[kind]
    bounds = {
        "greater_than": "a number above {gt:g}",
        "greater_than_equal": "a number of at least {ge:g}",
        "less_than": "a number below {lt:g}",
        "less_than_equal": "a number of at most {le:g}",
        "too_short": "a list of at least {min_length}",
    }
    if kind in bounds:
        return bounds[kind].format(**context) + " would be right"
    return str(fault["msg"]).replace("Input should be", "it should be")


def _wanted_field(place: KeyPath, layer: Layer, schema: type[BaseModel]) -> str:
    """What a missing key is for, and a near miss among the keys that are there."""
    above: Any = layer.data
    for part in place[:-1]:
        above = above[part]
    key = str(place[-1])
    present = [str(name) for name in above] if isinstance(above, dict) else []
    known = fields_at(schema, layer.data, place[:-1]) or {}
    near = difflib.get_close_matches(key, [name for name in present if name not in known], n=1)
    return f"it is required{f' (is {near[0]!r} meant for it?)' if near else ''}"


def _nearest_choice(faults: Sequence[Any]) -> str:
    """`; did you mean …?` where a word is close to one of the choices."""
    for fault in faults:
        if fault["type"] == "literal_error" and isinstance(fault["input"], str):
            choices = [part.strip().strip("'") for part in fault["ctx"]["expected"].replace(" or ", ",").split(",")]
            hint = _nearest(fault["input"], choices)
            if hint:
                return hint
    return ""


def _nearest(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.replace("-", "_").lower(), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _value(value: Any) -> str:
    """A received value on one line, cut when it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
