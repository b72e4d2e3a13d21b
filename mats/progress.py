"""How long work reports that it advances, without knowing who listens (a progress bar, a log, nobody)."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress. One stage is open at a time; `start` closes the previous one."""

    def start(self, description: str, total: int | None) -> None:
        """Open a stage of `total` steps (None: unknown)."""

    def advance(self, steps: int = 1) -> None:
        """`steps` more of the open stage are done."""

    def note(self, message: str) -> None:
        """A line for the user: a plan, a fallback, a warning."""


class Silent:
    """A `Progress` that says nothing; the default everywhere."""

    def start(self, description: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, steps: int = 1) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""
