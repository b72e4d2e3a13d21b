"""How numbers and names are written in tables, pages and cards: the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"


def short(value: float | None) -> str:
    """Three significant digits, scientific where that is shorter: 0.0123, 4.56, 1.2e-07; a dash for None."""
    if value is None:
        return NOTHING
    return "0" if value == 0 else f"{value:.3g}"


def whole(value: int | None) -> str:
    """An integer in groups of three digits."""
    return NOTHING if value is None else f"{value:,}"


def compact(value: int) -> str:
    """A count in words a reader grasps: 110 M, 23.8 M, 512."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return str(value)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def change(before: float | None, after: float | None) -> str:
    """The relative change from `before` to `after`: −43.1 %; a dash where it has no meaning."""
    if before is None or after is None or before <= 0:
        return NOTHING
    return f"{100 * (after - before) / before:+.1f} %".replace("-", "−")


def bounded(certificate: Mapping[str, Any]) -> str:
    """The share of a decrease that may be left: plain if proven, ° on retained eigenvalues alone, ~ an estimate."""
    share = certificate.get("remaining_share")
    mark = {"retained": "°", "estimated": "~"}.get(str(certificate.get("bound")), "")
    if share is None:
        return NOTHING
    text = "0 %" if share == 0 else "< 0.0001 %" if share < 1e-6 else f"{100 * share:.2g} %"
    return f"{mark}{text}"


def dimensions(shape: Sequence[int]) -> str:
    """768 × 3072; "scalar" for no dimension."""
    return " × ".join(str(size) for size in shape) if shape else "scalar"


def common_prefix_removed(names: Sequence[str]) -> list[str]:
    """Dotted names without the components that all of them begin or end with, for the labels of an axis."""
    if len(names) < 2:
        return list(names)
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    head = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest - 1)
    limit = shortest - head - 1
    tail = next((i for i in range(limit) if len({part[-1 - i] for part in parts}) > 1), limit)
    return [".".join(part[head : len(part) - tail]) for part in parts]
