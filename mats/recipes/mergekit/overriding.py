"""`key.path=value` on the command line over a merge file: `parameters.t=0.3`, `models.0.parameters.weight=0.7`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from mats.errors import RecipeError
from mats.yaml_reader import YamlFile, parse_value


def with_overrides(file: YamlFile, overrides: Sequence[str]) -> YamlFile:
    """The file with values replaced or added; what a key means is judged when the whole is checked.

    Raises:
        RecipeError: a path through something that is no mapping and no list, an index beyond a list, or no YAML.
    """
    data = deepcopy(file.data)
    for override in overrides:
        path, _, text = override.partition("=")
        try:
            _set(data, path.split("."), parse_value(text))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise RecipeError([f"command line: {override}: leads nowhere in {file.path}"]) from error
    return replace(file, data=data)


def _set(data: Any, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        data = data[int(part)] if isinstance(data, list) else data.setdefault(part, {})
    last = path[-1]
    data[int(last) if isinstance(data, list) else last] = value
