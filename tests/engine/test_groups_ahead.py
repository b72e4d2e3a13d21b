"""Groups read ahead: on one thread, in order, beside a solve only where the plan leaves room, errors in their turn."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from mats.engine import Group, System
from mats.engine.groups_ahead import GroupsAhead
from mats.engine.loading import GroupProblem
from mats.errors import StoreCorrupt
from mats.methods import MatsSettings


class Loader:
    """Tells what it read, and on which thread; a gate holds it back."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.read: list[str] = []
        self.threads: set[int] = set()
        self.torch_threads: set[int] = set()
        self.errors: dict[str, list[Exception]] = {}
        self.gate = threading.Event()
        self.gate.set()

    def load(self, group: Group) -> GroupProblem:
        assert self.gate.wait(10)
        (name,) = group.names
        self.read.append(name)
        self.threads.add(threading.get_ident())
        self.torch_threads.add(torch.get_num_threads())
        if self.errors.get(name):
            raise self.errors[name].pop()
        return GroupProblem(torch.empty(0), torch.empty(0), name)  # type: ignore[arg-type]


def groups(*overlaps: bool) -> list[Group]:
    return [
        Group((System(str(n), None, "out_in", (1, 1), "block", (), MatsSettings()),), 1, overlaps=each)
        for n, each in enumerate(overlaps)
    ]


def ahead_of(loader: Any, made: list[Group], shareable: bool = True) -> GroupsAhead:
    return GroupsAhead(made, loader, lambda group: shareable)


def test_the_next_is_read_while_one_is_worked_on_and_only_then() -> None:
    loader = Loader()
    with ahead_of(loader, groups(True, False, True)) as ahead:
        assert ahead.problem(0).quadratic == "0"
        ahead._waiting[1].result()  # type: ignore[index]  # nobody asked for it yet
        assert loader.read == ["0", "1"]
        assert ahead.problem(1).quadratic == "1"
        assert ahead._waiting is None
        assert ahead.problem(2).quadratic == "2"
    assert loader.read == ["0", "1", "2"]
    assert len(loader.threads - {threading.get_ident()}) == 1
    assert threading.get_ident() not in loader.threads
    assert loader.torch_threads == {1}


def test_what_must_not_be_read_beside_other_work_waits() -> None:
    loader = Loader()
    with ahead_of(loader, groups(True, True), shareable=False) as ahead:
        ahead.problem(0)
        assert ahead._waiting is None
        assert ahead.problem(1).quadratic == "1"


def test_the_work_goes_on_while_the_next_is_read() -> None:
    loader = Loader()
    with ahead_of(loader, groups(True, True, True)) as ahead:
        ahead.problem(0)
        ahead.drop()
        loader.gate.clear()  # the reader waits, and this thread gets its problem all the same once it is there
        opened = threading.Timer(0.05, loader.gate.set)
        opened.start()
        assert ahead.problem(1).quadratic == "1"
        ahead._waiting[1].result()  # type: ignore[index]
        loader.gate.clear()
        assert ahead.problem(2).quadratic == "2"  # was read before the gate closed


def test_an_error_of_reading_ahead_is_raised_in_its_turn() -> None:
    loader = Loader()
    loader.errors["1"] = [StoreCorrupt("cut short")]
    with ahead_of(loader, groups(True, True)) as ahead:
        assert ahead.problem(0).quadratic == "0"
        with pytest.raises(StoreCorrupt, match="cut short"):
            ahead.problem(1)


def test_a_lack_of_memory_beside_another_group_is_tried_again_alone() -> None:
    loader = Loader()
    loader.errors["1"] = [MemoryError()]
    with ahead_of(loader, groups(True, True)) as ahead:
        ahead.problem(0)
        assert ahead.problem(1).quadratic == "1"
    assert loader.read == ["0", "1", "1"]


def test_what_was_dropped_is_read_again() -> None:
    loader = Loader()
    with ahead_of(loader, groups(True, True)) as ahead:
        ahead.problem(0)
        ahead.drop()
        assert ahead.problem(1).quadratic == "1"
    assert loader.read == ["0", "1", "1"]


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    with ahead_of(Loader(), groups(True)) as ahead:
        ahead.problem(0)
        assert torch.get_num_threads() == before
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [before]
