"""What has been measured, line by line on disk: a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class OutOfTime(Exception):
    """The minutes allowed are over; what is measured is kept."""


class Records:
    """Measurements by key, in a file of JSON lines.

    Args:
        path: of the file.
        minutes: after which nothing new is begun; None: no limit.
        fresh: forget what the file holds.
    """

    def __init__(self, path: Path, minutes: float | None = None, *, fresh: bool = False) -> None:
        self.path = path
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.lines: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = _parsed(line)
                if record is not None:
                    self.lines[_name(record["key"])] = record

    def measured(self, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of `key`: read where it is there, else measured and written.

        Raises:
            OutOfTime: it would have to be measured, and the minutes are over.
        """
        name = _name(key)
        if name not in self.lines:
            if self._end is not None and time.monotonic() > self._end:
                raise OutOfTime
            self.lines[name] = {"key": key, **measure()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.lines[name]) + "\n")
        return self.lines[name]


def _name(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _parsed(line: str) -> dict[str, Any] | None:
    """A record; None for the torn last line of a run that was killed while writing."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
