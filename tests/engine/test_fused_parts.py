"""Parts of a fused tensor: put together by whoever brings the last one, on whatever thread."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from mats.checkpoints import TensorInfo
from mats.engine.fused_parts import Assembly


@pytest.fixture
def hasty():
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_parts_come_together_once_in_any_order():
    info, assembly, writer = TensorInfo("experts", torch.float32, (3, 2, 2)), Assembly(), object()
    parts = torch.arange(12.0).reshape(3, 2, 2)
    assert assembly.add(writer, info, 2, parts[2], {"name": "c"}) is None
    assert assembly.add(writer, info, 0, parts[0], {"name": "a"}) is None
    assert assembly.add(object(), info, 1, parts[1], None) is None, "another output's part"
    whole, told = assembly.add(writer, info, 1, parts[1], None)
    assert torch.equal(whole, parts)
    assert told == [{"name": "a"}, {"name": "c"}]


@pytest.mark.usefixtures("hasty")
def test_two_threads_that_bring_the_last_parts_give_one_whole():
    writer, count, rounds = object(), 2, 300
    info, part = TensorInfo("experts", torch.float32, (count, 1, 1)), torch.ones(1, 1)
    with ThreadPoolExecutor(count) as pool:
        for _ in range(rounds):
            assembly, start = Assembly(), Barrier(count)

            def bring(number, assembly=assembly, start=start):
                start.wait()
                return assembly.add(writer, info, number, part, None)

            wholes = [found for found in pool.map(bring, range(count)) if found is not None]
            assert len(wholes) == 1
