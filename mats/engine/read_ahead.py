"""Reading tensors before they are asked for, on a thread of its own, and never more than a stated number of bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from mats.engine import handing_over
from mats.engine.handing_over import MOST_HELD

FURTHEST = 64  # reads that are looked at beyond the one that is due


@dataclass(frozen=True)
class Want:
    """A tensor that will be asked for.

    Attributes:
        turn: the piece of work for which it is read; turns are asked for in ascending order.
        size: its bytes.
        read: reads it.
        shareable: whether `read` may run on another thread, beside other reads.
    """

    turn: int
    size: int
    read: Callable[[], Tensor]
    shareable: bool


class ReadAhead(AbstractContextManager["ReadAhead"]):
    """Hands out the tensors of `wants` in their order; while one is worked on, the next are read.

    torch's operations, `preadv` and page faults let go of the interpreter, so reading costs the caller nothing while a
    processor is free. The error of a read is raised where its tensor is asked for, whenever it was read.

    Args:
        wants: in the order in which they will be asked for.
        limit: bytes that may wait to be asked for; a larger tensor is read when its turn comes.
    """

    def __init__(self, wants: Iterable[Want], limit: int) -> None:
        self._upcoming = iter(wants)
        self._next = next(self._upcoming, None)
        self._limit = limit
        self._queue: deque[tuple[Want, Future[Tensor] | None]] = deque()
        self._held = self._held_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def tensors(self, turn: int) -> Iterator[Tensor]:
        """The tensors wanted in this turn; what earlier turns did not take is dropped."""
        while True:
            self._look_ahead()
            if not self._queue or self._queue[0][0].turn > turn:
                return
            late = self._queue[0][0].turn < turn
            want, future = self._queue.popleft()
            if future is not None:
                self._held, self._held_bytes = self._held - 1, self._held_bytes - want.size
            if late:
                continue
            tensor = want.read() if future is None else future.result()
            del future  # it holds the tensor, and this frame lives on while the caller works
            yield tensor
            del tensor  # before the next one is read

    def _look_ahead(self) -> None:
        """Queue what comes next, and start reading what there is room for."""
        while self._next is not None and len(self._queue) < FURTHEST:
            want = self._next
            threaded = want.shareable and handing_over.SMALLEST_HANDED_OVER <= want.size <= self._limit
            if threaded and (self._held >= MOST_HELD or self._held_bytes + want.size > self._limit):
                return
            if threaded:
                self._held, self._held_bytes = self._held + 1, self._held_bytes + want.size
            self._queue.append((want, self._thread.submit(want.read) if threaded else None))
            self._next = next(self._upcoming, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._queue.clear()
