"""How work shows that it advances: bars on a terminal, plain notes elsewhere, nothing with `--json`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mats.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class PlainNotes(Silent):
    """Notes alone, one line each on stderr: for logs, where bars would be noise."""

    def note(self, message: str) -> None:
        """Print one line."""
        sys.stderr.write(f"mats: {message}\n")


class TerminalBars:
    """A `Progress` drawn by rich on stderr; a finished stage stays as one line with its time."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._open: TaskID | None = None

    def start(self, description: str, total: int | None) -> None:
        """Close the open stage and open a new one."""
        if self._open is not None:
            self._finish(self._open)
        self._open = self._bars.add_task(description, total=total)

    def advance(self, steps: int = 1) -> None:
        """Move the open bar on."""
        if self._open is not None:
            self._bars.advance(self._open, steps)

    def note(self, message: str) -> None:
        """A line above the bars."""
        self._bars.console.print(message, markup=False, highlight=False)

    def _finish(self, task: TaskID) -> None:
        state = self._bars.tasks[self._bars.task_ids.index(task)]
        self._bars.update(task, total=state.total or state.completed or 1)
        self._bars.stop_task(task)


@contextlib.contextmanager
def progress_display(*, as_json: bool) -> Iterator[Progress]:
    """The display that suits where the output goes. NO_COLOR and dumb terminals are honoured by rich."""
    if as_json:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield PlainNotes()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield TerminalBars(bars)
