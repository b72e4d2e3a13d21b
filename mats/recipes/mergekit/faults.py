"""What is wrong with a merge file, collected so that all of it is told at once: line, key, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mats.errors import RecipeError
from mats.yaml_reader import KeyPath, dotted


class FileFaults:
    """Faults of one file.

    Args:
        path: the file.
        lines: the line on which each key stands.
    """

    def __init__(self, path: Path, lines: Mapping[KeyPath, int]) -> None:
        self._path, self._lines = path, lines
        self._found: list[tuple[int, str]] = []

    def add(self, at: KeyPath, text: str) -> None:
        """Note a fault of the key `at`; its line is that of the nearest key that was written."""
        written = at
        while written and written not in self._lines:
            written = written[:-1]
        line = self._lines.get(written, 1)
        fault = (line, f"{self._path}:{line}: {dotted(at)}: {text}" if at else f"{self._path}: {text}")
        if fault not in self._found:
            self._found.append(fault)

    def check_keys(
        self, value: Mapping[str, Any], at: KeyPath, known: Iterable[str], hints: Mapping[str, str] | None = None
    ) -> None:
        """Note every key of `value` that is not `known`, with a hint of its own or the nearest key that is."""
        allowed = tuple(known)
        for key in value:
            if key in allowed:
                continue
            advice = (hints or {}).get(key)
            if advice is None:
                near = difflib.get_close_matches(key.replace("-", "_"), allowed, n=1)
                nearest = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(allowed)} would be right"
                advice = f"unknown key; {nearest}"
            self.add((*at, key), advice)

    def raise_any(self) -> None:
        """Tell all that was found, in the order of the file.

        Raises:
            RecipeError: there is a fault.
        """
        if self._found:
            raise RecipeError([text for _, text in sorted(self._found, key=lambda fault: fault[0])])
