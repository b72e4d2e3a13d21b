"""An axis that draws several numbers at once and divides them by their sum, one number for each of some keys.

weights: {normalized: [0.1, 0.2, 0.5, 1], keys: [merge.constants.w1, merge.constants.w2], samples: 8, seed: 0}
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from mats.errors import RecipeError
from mats.recipes.dem_constants import drawn_shares
from mats.sweeps.axis import DIGITS, Setting

KIND = "normalized"
OPTIONS = {KIND, "keys", "samples", "seed"}


def normalized_settings(name: str, written: Mapping[str, Any], where: str) -> list[Setting]:
    """The settings of such an axis: `samples` of them, each over all of `keys`.

    Args:
        name: the axis; with the seed it decides what is drawn.
        written: what the sweep file says. Values are drawn with replacement.
        where: the place of the axis, for errors.

    Raises:
        RecipeError: an unknown or missing option, one out of place, or values that always sum to 0.
    """
    for key in written:
        if key not in OPTIONS:
            raise RecipeError([f"{where}: unknown key {key!r}; known: {', '.join(sorted(OPTIONS))}"])
    values, keys = written[KIND], written.get("keys")
    samples, seed = written.get("samples"), written.get("seed", 0)
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        raise RecipeError([f"{where}.{KIND}: received {values!r}; a list of at least one number would be right"])
    if not isinstance(keys, list) or not keys or len({*map(str, keys)}) < len(keys):
        raise RecipeError([f"{where}.keys: received {keys!r}; a list of keys of the recipe, each once, would be right"])
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise RecipeError([f"{where}.samples: received {samples!r}; a whole number of at least 1 would be right"])
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RecipeError([f"{where}.seed: received {seed!r}; a whole number would be right"])
    source = random.Random(f"{seed}:{name}")
    drawn = [_shares(source, values, len(keys), where) for _ in range(samples)]
    points = [{str(key): share for key, share in zip(keys, shares, strict=True)} for shares in drawn]
    return [Setting(point, point) for point in points]


def _shares(source: random.Random, values: list[float], count: int, where: str) -> list[float]:
    shares = drawn_shares(source, values, count)
    if shares is None:
        raise RecipeError([f"{where}.{KIND}: received {values!r}, of which {count} always sum to 0"])
    return [float(f"{share:.{DIGITS}g}") for share in shares]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
