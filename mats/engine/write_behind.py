"""Writing finished tensors on a thread of its own, while the next are merged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

from mats.engine import handing_over
from mats.engine.handing_over import MOST_HELD


class WriteBehind(AbstractContextManager["WriteBehind"]):
    """Does one write after another on a thread; what waits there is bounded in number and in bytes.

    The error of a write is raised by a later `submit`, by `finish`, or on leaving the context.

    Args:
        limit: bytes that may wait to be written; anything larger is written before `submit` returns.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-behind")

    def submit(self, size: int, write: Callable[[], None], *, shareable: bool = True) -> None:
        """Have `write` done; it holds `size` bytes until then. Not `shareable`: at once, on this thread."""
        if not shareable or not handing_over.SMALLEST_HANDED_OVER <= size <= self._limit:
            write()
            return
        while self._waiting and (len(self._waiting) >= MOST_HELD or self._bytes + size > self._limit):
            self._wait_for_first()
        self._waiting.append((self._thread.submit(write), size))
        self._bytes += size

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._waiting:
            self._wait_for_first()

    def _wait_for_first(self) -> None:
        future, size = self._waiting.popleft()
        self._bytes -= size
        future.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        finally:
            self._thread.shutdown()
