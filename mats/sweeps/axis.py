"""One axis of a sweep: from what a sweep file writes to the settings it stands for, in order.

An axis is a list of values, a mapping that makes values (`range`, `log_range`, `uniform`, `log_uniform`, `choice`), a
list of named variants that set several keys at once, or, for `models`, a rule that chooses among the recipe's models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mats.errors import RecipeError

DIGITS = 12  # significant digits of computed values: 0.3, not 0.30000000000000004
MODELS, COUNT = "models", "models.count"


@dataclass(frozen=True)
class Setting:
    """One value of an axis, or one combination of values of several.

    Attributes:
        columns: axis → value as tables show it.
        overrides: recipe key → value it takes.
        models: names of the recipe's models that are merged, in order; None: all of them.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] | None = None

    def joined(self, other: Setting, where: str) -> Setting:
        """Both at once.

        Raises:
            RecipeError: both decide the same key, or one decides a part of what the other decides.
        """
        for mine in self.overrides:
            for theirs in other.overrides:
                if mine == theirs or mine.startswith(f"{theirs}.") or theirs.startswith(f"{mine}."):
                    both = mine if mine == theirs else f"{mine} and {theirs}"
                    wanted = "one axis of named variants (docs/sweeps.md) would be right"
                    raise RecipeError([f"{where}: {both}: set twice; {wanted}"])
        return Setting(
            {**self.columns, **other.columns},
            {**self.overrides, **other.overrides},
            other.models if self.models is None else self.models,
        )


def plain_values(name: str, written: Any, where: str) -> list[Any]:
    """The values of an axis that is a list of values, or a mapping that makes them.

    Args:
        name: the axis; with the seed it decides what is drawn, so that axes of one seed draw apart.
        written: what the sweep file says.
        where: the place of the axis, for errors.

    Raises:
        RecipeError: it is neither, or a number is out of place.

    >>> plain_values("merge.scale", {"range": [0, 1, 3]}, "axes.merge.scale")
    [0, 0.5, 1]
    """
    if isinstance(written, list):
        if not written:
            raise RecipeError([f"{where}: received []; a list of at least one value would be right"])
        return written
    kind, makers = _kind_of(written, where), _MAKERS
    maker, options = makers[kind]
    _refuse_unknown(written, {kind, *options}, where)
    try:
        values = maker(name, written[kind], written)
    except (TypeError, ValueError) as error:
        raise RecipeError([f"{where}.{kind}: received {written[kind]!r}; {error}"]) from error
    if written.get("whole", False):
        values = [round(value) for value in values]
    return list(dict.fromkeys(values)) if kind.endswith("range") else values


def _kind_of(written: Any, where: str) -> str:
    found = [kind for kind in _MAKERS if isinstance(written, Mapping) and kind in written]
    if len(found) != 1:
        raise RecipeError([f"{where}: received {written!r}; a list, or a mapping with one of {', '.join(_MAKERS)}"])
    return found[0]


def _refuse_unknown(written: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in written:
        if key not in known:
            raise RecipeError([f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}"])


def _ends(value: Any, length: int, example: str) -> list[float]:
    """Two ends, and for ranges the number of values."""
    if not isinstance(value, list) or len(value) != length or not all(_is_number(part) for part in value):
        raise ValueError(f"{example} would be right")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _spaced(value: Any, example: str, at: Callable[[float, float, float], float]) -> list[float]:
    """`n` values from start to stop, both included, with whole numbers where the ends are whole."""
    start, stop, count = _ends(value, 3, example)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{example} would be right: the third is how many values, a whole number of at least 1")
    shares = [place / (count - 1) for place in range(count)] if count > 1 else [0.0]
    return [_tidy(at(start, stop, share), start, stop) for share in shares]


def _tidy(value: float, start: float, stop: float) -> float:
    """Rounded to `DIGITS`, and a whole number as such where both ends were written so."""
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and isinstance(start, int) and isinstance(stop, int) else rounded


def _range(_name: str, value: Any, _written: Mapping[str, Any]) -> list[float]:
    return _spaced(value, "[start, stop, how many]", lambda low, high, share: low + (high - low) * share)


def _log_range(_name: str, value: Any, _written: Mapping[str, Any]) -> list[float]:
    example = "[start, stop, how many] with both ends above 0"
    if min(_ends(value, 3, example)[:2]) <= 0:
        raise ValueError(f"{example} would be right")
    return _spaced(value, example, lambda low, high, share: low ** (1 - share) * high**share)


def _uniform(name: str, value: Any, written: Mapping[str, Any]) -> list[float]:
    low, high = _ends(value, 2, "[low, high]")
    source = _random(name, written)
    return [float(f"{source.uniform(low, high):.{DIGITS}g}") for _ in range(_samples(written))]


def _log_uniform(name: str, value: Any, written: Mapping[str, Any]) -> list[float]:
    low, high = _ends(value, 2, "[low, high], both above 0,")
    if min(low, high) <= 0:
        raise ValueError("[low, high], both above 0, would be right")
    source = _random(name, written)
    return [float(f"{low * (high / low) ** source.random():.{DIGITS}g}") for _ in range(_samples(written))]


def _choice(name: str, value: Any, written: Mapping[str, Any]) -> list[Any]:
    """Draws in shuffled rounds: no value comes again before all have come."""
    if not isinstance(value, list) or not value:
        raise ValueError("a list of at least one value would be right")
    source, samples = _random(name, written), _samples(written)
    drawn: list[Any] = []
    while len(drawn) < samples:
        drawn += source.sample(value, len(value))
    return drawn[:samples]


def _random(name: str, written: Mapping[str, Any]) -> random.Random:
    seed = written.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"and seed {seed!r}; a whole number as seed would be right")
    return random.Random(f"{seed}:{name}")


def _samples(written: Mapping[str, Any]) -> int:
    samples = written.get("samples")
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"and samples {samples!r}; samples: a whole number of at least 1 would be right")
    return samples


_Maker = Callable[[str, Any, Mapping[str, Any]], list[Any]]
_MAKERS: dict[str, tuple[_Maker, Sequence[str]]] = {
    "range": (_range, ("whole",)),
    "log_range": (_log_range, ("whole",)),
    "uniform": (_uniform, ("samples", "seed", "whole")),
    "log_uniform": (_log_uniform, ("samples", "seed", "whole")),
    "choice": (_choice, ("samples", "seed")),
}
"""What a mapping may make values by, and the options beside it."""
