"""From what a row holds as its label to the index of a class or choice, or to a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mats.errors import DataError


def label_index(value: Any, names: Sequence[str], count: int, where: str) -> int:
    """The index that a label means: a class name, else a whole number (or its digits).

    Args:
        value: The stored label: text, int, bool, a whole float or a NumPy scalar.
        names: Names of the classes in order; may be empty.
        count: Number of classes or choices.
        where: File and row, for the message.

    Raises:
        DataError: the label is no name and no whole number, or lies outside 0 … count − 1.
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str) and value in names:
        return names.index(value)
    try:
        index = int(value)
        whole = not isinstance(value, float) or index == value
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        known = f"one of {', '.join(names[:12])}{', …' if len(names) > 12 else ''}, or " if names else ""
        raise DataError(f"{where}: label {value!r}; {known}a whole number from 0 to {count - 1} would be right")
    if not 0 <= index < count:
        raise DataError(f"{where}: label {index} is outside range; 0 to {count - 1} would be right")
    return index


def label_number(value: Any, where: str) -> float:
    """The number that a label of text_regression means.

    Raises:
        DataError: it is no finite number.
    """
    value = value.item() if hasattr(value, "item") else value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{where}: label {value!r}; a finite number would be right")
    return number
