"""Several processes on one job, as `accelerate launch` and `torchrun` start them; one alone otherwise.

    with together(device) as processes:
        for item in items[processes.rank :: processes.count]:
            processes.check()
            ...
        processes.sum_(total)

Where one process fails, the others stop at their next `check`, or while they wait for it, with its message: nothing
here waits for ever. Waiting is polling, so that a process that waits hears of a failure within a fraction of a second;
one that was killed breaks its connections, which the others see as well.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from mats.errors import MatsError, RequestError, WorkFailed
from mats.progress import Progress, Silent

WAIT_SECONDS = 3600.0  # for another process to come to the same point
MEET_SECONDS = 300.0  # for all processes to have started
POLL_SECONDS = 0.002
FAILURE_POLL_SECONDS = 0.2
FAREWELL_SECONDS = 5.0  # for which one that fails stays, so that the others can hear why
GONE = "is gone"
PIECE = 1 << 26  # elements summed at once, so that waiting buffers stay small


class Processes:
    """One process alone: nobody to wait for, and sums are what they are.

    Attributes:
        rank: Which of the processes this is, from 0.
        count: How many there are.
        local_rank: Which of those on this machine this is: the number of its GPU.
    """

    rank = 0
    count = 1
    local_rank = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def progress(self, progress: Progress | None) -> Progress:
        """`progress` in the first process; the others are silent."""
        return progress if progress is not None and self.is_first else Silent()

    def check(self) -> None:
        """Ask, at little cost, whether another process has failed.

        Raises:
            WorkFailed: it has; says which and why.
        """

    def barrier(self) -> None:
        """Go on when every process has come here.

        Raises:
            WorkFailed: another process failed, is gone, or did not come in time.
        """

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` (contiguous, of one shape everywhere) by its sum over the processes, the same in all.

        Raises:
            WorkFailed: as `barrier`.
        """
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """A small picklable value of every process, in the order of ranks, in all of them.

        Raises:
            WorkFailed: as `barrier`.
        """
        return [value]

    def first_says(self, make: Callable[[], Any]) -> Any:
        """What `make` gives in the first process, which alone runs it, in all of them.

        Raises:
            WorkFailed: as `barrier`.
        """
        return make()


class _Connected(Processes):
    """One of several. Sums of GPU tensors go over NCCL; all else over gloo, which notices processes that are gone."""

    def __init__(self, store: Any, rank: int, count: int, wait_seconds: float) -> None:
        self.rank, self.count = rank, count
        self.local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self._store = store
        self._wait_seconds = wait_seconds
        self._asked = 0.0
        self._knows_why = False  # that another process failed, which the rest hear as this one did

    def check(self) -> None:
        try:
            failed = self._store.check(["failed"])
            told = self._store.get("failed").decode() if failed else None
        except RuntimeError as error:  # whoever kept the store is gone
            raise self._because(GONE) from error
        if told is not None:
            with suppress(RuntimeError):
                self._store.add("heard", 1)
            self._knows_why = True
            raise WorkFailed(told)

    def barrier(self) -> None:
        self.sum_(torch.zeros(1))

    def sum_(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        for piece in tensor.view(-1).split(PIECE):
            self._finish(dist.all_reduce(piece, async_op=True))
        return tensor

    def gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        self._finish(dist.all_gather(sizes, torch.tensor([mine.numel()]), async_op=True))
        longest = max(int(size) for size in sizes)
        all_of_them = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        padded = torch.nn.functional.pad(mine, (0, longest - mine.numel()))
        self._finish(dist.all_gather(all_of_them, padded, async_op=True))
        return [
            pickle.loads(item[: int(size)].numpy().tobytes()) for item, size in zip(all_of_them, sizes, strict=True)
        ]

    def first_says(self, make: Callable[[], Any]) -> Any:
        return self.gather(make() if self.is_first else None)[0]

    def fail(self, error: BaseException) -> None:
        """Let the others know why this process stops, and wait a little until they have heard."""
        if self._knows_why:
            return
        line = (str(error).splitlines() or [""])[0]
        told = line if isinstance(error, MatsError) else f"{type(error).__name__}: {line}"
        with suppress(RuntimeError):  # the others are gone already
            self._store.set("failed", f"process {self.rank} of {self.count} stopped: {told}")
            until = time.monotonic() + FAREWELL_SECONDS
            while self._store.add("heard", 0) < self.count - 1 and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _finish(self, work: Any) -> None:
        """Wait for a piece of communication, hearing of failures meanwhile."""
        started = time.monotonic()
        while not work.is_completed():
            now = time.monotonic()
            if now - self._asked > FAILURE_POLL_SECONDS:
                self._asked = now
                self.check()
            if now - started > self._wait_seconds:
                raise self._because(f"did not come to the same point within {self._wait_seconds:g} s")
            time.sleep(POLL_SECONDS)
        try:
            work.wait()
        except RuntimeError as error:
            self.check()
            raise self._because(GONE) from error

    def _because(self, what: str) -> WorkFailed:
        self._knows_why = what == GONE
        return WorkFailed(f"process {self.rank} of {self.count} stops: another one {what}; its own message says why")


_current: list[Processes] = []
_meetings = itertools.count()


@contextmanager
def together(device: torch.device | None = None, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[Processes]:
    """The processes that were launched together; inside another `together`, the same ones.

    All leave together: at the end each waits for the others. An error in one is told to the rest before it goes on.

    Args:
        device: Where the work is done; on a GPU its sums go over NCCL.
        wait_seconds: How long a process waits for another to come to the same point.

    Raises:
        RequestError: RANK and WORLD_SIZE in the environment do not fit together.
        WorkFailed: another process failed, is gone, or did not come.
    """
    if _current:
        yield _current[-1]
        return
    rank, count = launched()
    if count == 1:
        yield Processes()
        return
    processes = _connect(rank, count, device, wait_seconds)
    _current.append(processes)
    try:
        yield processes
        processes.barrier()
    except BaseException as error:
        processes.fail(error)
        raise
    finally:
        _current.clear()
        _disconnect()


def launched() -> tuple[int, int]:
    """(rank, count) as the launcher has set them, before anything is connected; (0, 1) without a launcher.

    Raises:
        RequestError: they do not fit together.
    """
    told = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    if not all(value.isdecimal() for value in told.values()) or not int(told["RANK"]) < int(told["WORLD_SIZE"]):
        raise RequestError(
            f"RANK={told['RANK']} and WORLD_SIZE={told['WORLD_SIZE']} in the environment; a rank from 0 to "
            "WORLD_SIZE − 1, as accelerate launch and torchrun set them, would be right"
        )
    return int(told["RANK"]), int(told["WORLD_SIZE"])


@functools.cache
def _rendezvous() -> Any:
    """The key-value store that all processes reach; kept for the life of the process."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=MEET_SECONDS)))
    return store


def _connect(rank: int, count: int, device: torch.device | None, wait_seconds: float) -> _Connected:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RequestError(
            f"WORLD_SIZE={count} in the environment but not {', '.join(missing)}; start with accelerate launch or "
            "torchrun, or unset WORLD_SIZE"
        )
    try:
        store = PrefixStore(f"mats/{next(_meetings)}", _rendezvous())
        on_gpu = device is not None and device.type == "cuda"
        if not dist.is_initialized():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=PrefixStore("group", store),
                rank=rank,
                world_size=count,
                timeout=timedelta(seconds=wait_seconds + 60),
            )
    except RuntimeError as error:
        line = str(error).splitlines()[0]
        raise WorkFailed(
            f"process {rank} of {count}: the others were not reached within {MEET_SECONDS:g} s ({line})"
        ) from error
    return _Connected(store, rank, count, wait_seconds)


def _disconnect() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        with suppress(RuntimeError):  # connections to a process that is gone cannot be closed twice
            dist.destroy_process_group()
