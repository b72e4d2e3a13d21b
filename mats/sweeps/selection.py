"""Which points are the best: by one number on the split of `select`, over all points or for each value of some axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mats.sweeps.points import shown_value
from mats.sweeps.spec import SelectSection


class Placed(Protocol):
    """What selection knows of a point."""

    @property
    def number(self) -> int:
        """Its place in the sweep."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """Axis → value."""


P = TypeVar("P", bound=Placed)


def select_points(scored: Sequence[tuple[P, float | None]], select: SelectSection) -> list[P]:
    """The best point for each combination of values of the axes `select.per`; among equals the first.

    Args:
        scored: points with the value of `select.metric` on `select.split`; those without one are not chosen.
        select: order and axes.
    """
    best: dict[tuple[str, ...], tuple[float, P]] = {}
    for point, value in sorted(scored, key=lambda item: item[0].number):
        if value is None or not math.isfinite(value):
            continue
        key = tuple(shown_value(point.columns.get(name)) for name in select.per)
        rank = value if select.order == "highest" else -value
        if key not in best or rank > best[key][0]:
            best[key] = (rank, point)
    return [point for _, point in best.values()]


def merged_entry(scores: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The merged model among the entries of a scores file; None where it was not scored."""
    entries = scores["models"] if scores is not None else []
    return next((entry for entry in entries if entry["name"] == "merged"), None)


def value_of(scores: Mapping[str, Any] | None, metric: str) -> float | None:
    """`mean_relative` or `mean` of the merged model in the value of a scores file."""
    entry = merged_entry(scores)
    value = entry.get(metric) if entry is not None else None
    return None if value is None else float(value)
