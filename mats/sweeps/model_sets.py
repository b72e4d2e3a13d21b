"""The axis `models`: which of the recipe's models are merged. Pairs, sets of given sizes, or sets by name."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from mats.errors import RecipeError
from mats.sweeps.axis import COUNT, MODELS, Setting

KINDS = ("pairs", "subsets")
MOST_LISTED = 100_000  # sets of one size that are listed before some are drawn; above it they are drawn one by one


def model_settings(written: Any, names: Sequence[str], where: str) -> list[Setting]:
    """The settings of a `models` axis.

    Args:
        written: `{pairs: ordered | unordered}`, `{subsets: [sizes], samples: n, seed: s}`, or a list of lists of names.
        names: the recipe's models, in order.
        where: the place of the axis, for errors.

    Raises:
        RecipeError: it is none of these, or asks for models that the recipe does not have.
    """
    if isinstance(written, list):
        chosen = [_named(entry, names, where) for entry in written]
    elif isinstance(written, Mapping) and set(written) == {"pairs"}:
        chosen = _pairs(written["pairs"], names, where)
    elif isinstance(written, Mapping) and "subsets" in written and set(written) <= {"subsets", "samples", "seed"}:
        chosen = _subsets(written, names, where)
    else:
        raise RecipeError(
            [f"{where}: received {written!r}; lists of names, {{pairs: ordered}} or {{subsets: [2, 3]}} would be right"]
        )
    if not chosen:
        raise RecipeError([f"{where}: received {written!r}, which chooses no models out of {len(names)}"])
    return [Setting({MODELS: "+".join(models), COUNT: len(models)}, {}, models) for models in chosen]


def _named(entry: Any, names: Sequence[str], where: str) -> tuple[str, ...]:
    if not isinstance(entry, list) or not entry:
        raise RecipeError([f"{where}: received {entry!r}; a list of the recipe's models would be right"])
    for name in entry:
        if name not in names:
            raise RecipeError([f"{where}: no model {name!r}; one of {', '.join(names)} would be right"])
    if len(set(entry)) < len(entry):
        raise RecipeError([f"{where}: received {entry!r}; each model once would be right"])
    return tuple(entry)


def _pairs(kind: Any, names: Sequence[str], where: str) -> list[tuple[str, ...]]:
    if kind == "ordered":
        return list(itertools.permutations(names, 2))
    if kind == "unordered":
        return list(itertools.combinations(names, 2))
    raise RecipeError([f"{where}.pairs: received {kind!r}; ordered or unordered would be right"])


def _subsets(written: Mapping[str, Any], names: Sequence[str], where: str) -> list[tuple[str, ...]]:
    """For each size all sets, or as many different ones as `samples`, drawn by the seed."""
    sizes = written["subsets"]
    if not isinstance(sizes, list) or not all(_is_count(size) and size <= len(names) for size in sizes):
        raise RecipeError(
            [f"{where}.subsets: received {sizes!r}; a list of sizes from 1 to {len(names)} would be right"]
        )
    samples, seed = written.get("samples"), written.get("seed", 0)
    if samples is not None and not _is_count(samples):
        raise RecipeError([f"{where}.samples: received {samples!r}; a whole number of at least 1 would be right"])
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RecipeError([f"{where}.seed: received {seed!r}; a whole number would be right"])
    chosen: list[tuple[str, ...]] = []
    for size in dict.fromkeys(sizes):
        chosen += _of_size(names, size, samples, random.Random(f"{seed}:{size}"))
    return chosen


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _of_size(names: Sequence[str], size: int, samples: int | None, source: random.Random) -> list[tuple[str, ...]]:
    """Different sets of one size, each in the recipe's order, sets in that order too."""
    total = math.comb(len(names), size)
    if samples is None or samples >= total:
        return list(itertools.combinations(names, size))
    if total <= MOST_LISTED:
        places = source.sample(list(itertools.combinations(range(len(names)), size)), samples)
    else:
        found: dict[tuple[int, ...], None] = {}
        while len(found) < samples:
            found.setdefault(tuple(sorted(source.sample(range(len(names)), size))))
        places = list(found)
    return [tuple(names[place] for place in each) for each in sorted(places)]
