"""Amounts of memory as people write them: `8GB`, `500 MiB`, `1073741824`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "t": 10**12,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes meant by `text`. `GB` is 10⁹ and `GiB` 2³⁰ bytes; the case of the unit does not matter.

    Raises:
        ValueError: `text` is not a number with an optional unit, or less than one byte.

    >>> parse_size("8GB"), parse_size("1.5 KiB")
    (8000000000, 1536)
    """
    match = _PATTERN.fullmatch(text)
    if match is None or match.group(2).lower() not in UNITS:
        raise ValueError("give a number of bytes, or a number with a unit such as 8GB or 500MiB")
    size = int(float(match.group(1)) * UNITS[match.group(2).lower()])
    if size < 1:
        raise ValueError("give at least one byte")
    return size


def _size(value: Any) -> Any:
    """Let numbers through to pydantic; read strings as sizes."""
    return parse_size(value) if isinstance(value, str) else value


ByteSize = Annotated[int, BeforeValidator(_size), Field(ge=1)]
