"""Parameters of merge files: numbers that depend on a tensor's name (filters) and on its layer (gradients).

A setting is a scalar, a gradient (a list of scalars), or a list of `{filter, value}`, whose values are of the first two
kinds. It is looked up for one tensor by name and by position: t = i / (L − 1) in the i-th of L layers, 1 in a single
one, and 0 outside of layers, so that embeddings, the last norm and the head get the first element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mats.recipes.mergekit.faults import FileFaults
from mats.yaml_reader import KeyPath

Scalar: TypeAlias = "float | bool"
EVERYWHERE = "*"


@dataclass(frozen=True)
class Parameter:
    """What a method takes under one name.

    Attributes:
        kind: bool or float.
        by_model: each model has its own; otherwise there is one for all of them.
        default: None: it must be given.
        lowest, highest: limits of a number; None: none.
        above_lowest: the lowest itself is not allowed.
        idle: accepted, and of no effect.
    """

    kind: type = float
    by_model: bool = False
    default: Scalar | None = None
    lowest: float | None = None
    highest: float | None = None
    above_lowest: bool = False
    idle: bool = False

    def fault(self, value: Any) -> str | None:
        """What would be right instead of one scalar; None where it is right."""
        if self.kind is bool:
            return None if isinstance(value, bool) or value in (0, 1) else "true or false would be right"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
            return "a number would be right"
        low = self.lowest is not None and (value < self.lowest or (self.above_lowest and value == self.lowest))
        if low or (self.highest is not None and value > self.highest):
            return f"a number in {self.interval} would be right"
        return None

    @property
    def interval(self) -> str:
        """The numbers that are allowed, with the brackets that say which ends are."""
        left = "(-∞" if self.lowest is None else f"{'(' if self.above_lowest else '['}{self.lowest:g}"
        return f"{left}, {'∞)' if self.highest is None else f'{self.highest:g}]'}"


@dataclass(frozen=True)
class Setting:
    """One parameter as it was written at one level: conditions in order, each a filter and its scalars."""

    conditions: tuple[tuple[str, tuple[Scalar, ...]], ...]

    @property
    def constant(self) -> bool:
        """Whether it has one value for every tensor."""
        return len(self.conditions) == 1 and self.conditions[0][0] == EVERYWHERE and len(self.conditions[0][1]) == 1

    def value(self, name: str, position: float) -> Scalar | None:
        """Its value for a tensor; None where no filter is part of the name."""
        for pattern, values in self.conditions:
            if pattern == EVERYWHERE or pattern in name:
                return values[0] if len(values) == 1 else between(values, position)
        return None


def between(values: Sequence[Scalar], position: float) -> Scalar:
    """The value at `position` in [0, 1] of a gradient: interpolated linearly; of truth values the one reached last.

    >>> between([0.0, 1.0, 0.0], 0.25)
    0.5
    """
    place = position * (len(values) - 1)
    below = int(place)
    if isinstance(values[0], bool) or below >= len(values) - 1:
        return values[min(below, len(values) - 1)]
    return values[below] * (1.0 - (place - below)) + values[below + 1] * (place - below)


def resolve(levels: Sequence[Setting], name: str, position: float) -> Scalar | None:
    """The value of the first level that has one for this tensor."""
    for setting in levels:
        value = setting.value(name, position)
        if value is not None:
            return value
    return None


def read_setting(value: Any, at: KeyPath, parameter: Parameter, faults: FileFaults) -> Setting | None:
    """A setting as written; None where it is null, or, with a fault noted, wrong."""
    if value is None:
        return None
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not any(isinstance(entry, dict) for entry in value):
        values = _scalars(value, at, parameter, faults)
        return None if values is None else Setting(((EVERYWHERE, values),))
    conditions = []
    for index, entry in enumerate(value):
        here = (*at, index)
        if not isinstance(entry, dict):
            faults.add(here, f"received {entry!r}; beside other filters, {{filter: …, value: …}} would be right")
            continue
        faults.check_keys(entry, here, ("filter", "value"))
        pattern = entry.get("filter", EVERYWHERE)
        values = _scalars(entry.get("value"), (*here, "value"), parameter, faults)
        if pattern is not None and not isinstance(pattern, str):
            faults.add((*here, "filter"), f"received {pattern!r}; part of a tensor's name would be right")
        elif values is not None:
            conditions.append((pattern or EVERYWHERE, values))
    return Setting(tuple(conditions))


def _scalars(value: Any, at: KeyPath, parameter: Parameter, faults: FileFaults) -> tuple[Scalar, ...] | None:
    """A scalar or a gradient, as a tuple."""
    entries = value if isinstance(value, list) else [value]
    if not entries:
        faults.add(at, "an empty list; at least one value would be right")
    wrong = [(entry, advice) for entry in entries if (advice := parameter.fault(entry)) is not None]
    for entry, advice in wrong[:1]:
        faults.add(at, f"received {entry!r}; {advice}")
    if wrong or not entries:
        return None
    return tuple(parameter.kind(entry) for entry in entries)
