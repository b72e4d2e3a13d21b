"""Reading ahead and writing behind: same order, same errors, bounded memory."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from torch import Tensor

from mats.engine import handing_over
from mats.engine.handing_over import MOST_HELD, SMALLEST_HANDED_OVER, held_bytes, most_held
from mats.engine.read_ahead import ReadAhead, Want
from mats.engine.write_behind import WriteBehind

LARGE = SMALLEST_HANDED_OVER


class Disk:
    """Counts what was read and not yet taken, and on which threads."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.threads: set[int] = set()

    def read(self, number: int) -> Tensor:
        self.order.append(number)
        self.threads.add(threading.get_ident())
        return torch.tensor(number)

    def wants(self, *turns: int, size: int = LARGE, shareable: bool = True) -> list[Want]:
        return [Want(turn, size, partial(self.read, number), shareable) for number, turn in enumerate(turns)]


@pytest.mark.parametrize("size", [8, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("shareable", [True, False])
def test_order_and_turns(size: int, shareable: bool) -> None:
    disk = Disk()
    with ReadAhead(disk.wants(0, 0, 2, 2, 2, 3, size=size, shareable=shareable), 4 * LARGE) as ahead:
        assert [int(tensor) for tensor in ahead.tensors(0)] == [0, 1]
        assert list(ahead.tensors(1)) == []
        assert int(next(ahead.tensors(2))) == 2  # and two are not taken
        assert [int(tensor) for tensor in ahead.tensors(3)] == [5]
    elsewhere = disk.threads - {threading.get_ident()}
    assert bool(elsewhere) == (size == LARGE and shareable)


def test_no_more_is_held_than_allowed() -> None:
    for limit, most in ((10 * LARGE, MOST_HELD), (LARGE, 1), (LARGE - 1, 0)):
        disk = Disk()
        with ReadAhead(disk.wants(*range(20)), limit) as ahead:
            for turn in range(20):
                for tensor in ahead.tensors(turn):
                    assert len(disk.order) <= turn + 1 + most
                    assert int(tensor) == turn


def test_an_error_is_raised_in_its_turn_whenever_it_was_met() -> None:
    def fail() -> Tensor:
        raise OSError("cut short")

    wants = [Want(0, LARGE, lambda: torch.tensor(0), True), Want(1, LARGE, fail, True)]
    with ReadAhead(wants, 4 * LARGE) as ahead:
        assert len(list(ahead.tensors(0))) == 1
        with pytest.raises(OSError, match="cut short"):
            list(ahead.tensors(1))


def test_writes_happen_in_order_and_are_bounded() -> None:
    written: list[int] = []
    gate = threading.Event()

    def write(number: int) -> None:
        if number == 0:
            gate.wait(10)
        written.append(number)

    with WriteBehind(10 * LARGE) as behind:
        for number in range(MOST_HELD):
            behind.submit(LARGE, partial(write, number))
        assert written == []
        gate.set()
        behind.submit(LARGE, partial(write, MOST_HELD))
        assert written[0] == 0  # one more had to wait for the first
    assert written == list(range(MOST_HELD + 1))


@pytest.mark.parametrize(("size", "shareable"), [(8, True), (LARGE, False), (11 * LARGE, True)])
def test_small_unshareable_and_too_large_are_written_at_once(size: int, shareable: bool) -> None:
    threads: list[int] = []
    with WriteBehind(10 * LARGE) as behind:
        behind.submit(size, lambda: threads.append(threading.get_ident()), shareable=shareable)
        assert threads == [threading.get_ident()]


def test_a_failed_write_is_raised() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind(10 * LARGE) as behind:
        behind.submit(LARGE, fail)


def test_bounds_follow_the_budget() -> None:
    assert held_bytes(8 << 20) == 1 << 20
    assert held_bytes(None) == held_bytes(1 << 40) == handing_over.DEFAULT_HELD_BYTES
    assert most_held([8, 2 * LARGE, 3 * LARGE, 9 * LARGE], 5 * LARGE) == 5 * LARGE
    assert most_held([8, 2 * LARGE, LARGE, 9 * LARGE], 5 * LARGE) == 3 * LARGE
    assert most_held([8], 5 * LARGE) == 0
