"""An axis `from_ties`: merge strings of the published TIES code, each scale of each string a point."""

from __future__ import annotations

from typing import Any

from mats.errors import RecipeError, RequestError
from mats.recipes.ties_strings import parse_ties_string
from mats.sweeps.axis import Setting

FROM_TIES, SCALE = "from_ties", "scale"


def ties_settings(written: Any, where: str) -> list[Setting]:
    """The points of an axis of merge strings: columns for the string without its scales, and for the scale.

    Raises:
        RecipeError: it is no list of strings, or a string has a fault; all faults.
    """
    if not isinstance(written, list) or not written or not all(isinstance(text, str) for text in written):
        raise RecipeError([f"{where}: received {written!r}; a list of merge strings (docs/methods.md) would be right"])
    faults, settings = [], []
    for text in written:
        try:
            string = parse_ties_string(text)
        except RequestError as error:
            faults.append(f"{where}: {error}")
            continue
        for scale in string.variants:
            columns = {FROM_TIES: string.without_scales, SCALE: scale}
            settings.append(Setting(columns, string.overrides(scale)))
    if faults:
        raise RecipeError(faults)
    return settings
