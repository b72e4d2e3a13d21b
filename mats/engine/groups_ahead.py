"""Groups of layers read on a thread of its own: the next one while the present one is solved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

import torch

from mats.engine.loading import GroupLoader, GroupProblem
from mats.engine.plan_parts import Group
from mats.errors import is_out_of_memory


class GroupsAhead(AbstractContextManager["GroupsAhead"]):
    """Hands out the problems of groups in their order, each once.

    Everything is read on the one thread, with one thread of torch's, whether ahead or not: so the numbers do not depend
    on the memory budget. On a GPU it has a stream of its own, and a problem is handed out when its copies are done.

    Args:
        groups: in the order in which they will be asked for. While one that `overlaps` is worked on, the next is read.
        loader: reads them.
        shareable: whether a group may be read beside other work on the same checkpoints.
    """

    def __init__(self, groups: Sequence[Group], loader: GroupLoader, shareable: Callable[[Group], bool]) -> None:
        self._groups = groups
        self._loader = loader
        self._shareable = shareable
        self._waiting: tuple[int, Future[GroupProblem]] | None = None
        threads = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="groups-ahead")
        self._thread.submit(_compute_alone).result()
        torch.set_num_threads(threads)  # what later threads start with is common to all
        on_gpu = loader.device.type == "cuda"
        self._stream = torch.cuda.Stream(loader.device) if on_gpu else None

    def problem(self, turn: int) -> GroupProblem:
        """The problem of group `turn`; the next one is read from now on, if this one leaves room for it."""
        problem = self._take(turn)
        following = turn + 1
        room = following < len(self._groups) and self._groups[turn].overlaps
        if room and self._shareable(self._groups[following]):
            self._waiting = (following, self._begin(following))
        return problem

    def _take(self, turn: int) -> GroupProblem:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] == turn:
            error = waiting[1].exception()
            if error is None or not is_out_of_memory(error):
                return waiting[1].result()
            del error  # it was read beside another group, which is gone now
        return self._begin(turn).result()

    def drop(self) -> None:
        """Forget what was read ahead, to make room; it is read again in its turn."""
        if self._waiting is not None:
            self._waiting[1].exception()  # waits for the thread
            self._waiting = None

    def _begin(self, turn: int) -> Future[GroupProblem]:
        return self._thread.submit(self._read, self._groups[turn])

    def _read(self, group: Group) -> GroupProblem:
        if self._stream is None:
            return self._loader.load(group)
        # Memory goes back to this stream's pool only after a solve, whose certificates the host has waited for.
        with torch.cuda.stream(self._stream):
            problem = self._loader.load(group)
        self._stream.synchronize()
        return problem

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._waiting = None


def _compute_alone() -> None:
    """One thread of torch's for the thread that calls this.

    A thread takes torch's common number when it first computes, so it has to do that before it gets one of its own.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
