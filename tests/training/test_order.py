"""Which examples an update sees: every one once per pass, whatever the batch, and the same ones after a resumption."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.training.order import MicroBatches, Shape, UpdateOrder

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.booleans())


def order_of(
    examples: int, micro: int, accumulation: int, processes: int, by_length: bool, *, passes: int = 3, seed: int = 0
) -> UpdateOrder:
    batch = micro * accumulation * processes
    shape = Shape(batch, micro, accumulation, processes, updates=max(1, passes * examples // batch))
    return UpdateOrder([(7 * index) % 31 for index in range(examples)], shape, seed, by_length=by_length)


@given(SIZES)
def test_every_example_is_seen_equally_often(sizes: tuple[int, int, int, int, bool]) -> None:
    order = order_of(*sizes)
    seen = Counter(index for number in range(order.shape.updates) for index in order.update(number))
    total = order.shape.updates * order.shape.batch_size
    counts = [seen[index] for index in range(sizes[0])]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


@given(SIZES)
def test_processes_share_each_update(sizes: tuple[int, int, int, int, bool]) -> None:
    """All micro-batches of all processes are the update, and each is full."""
    order = order_of(*sizes)
    shape = order.shape
    dealt = [MicroBatches(order, process) for process in range(shape.processes)]
    assert {len(batches) for batches in dealt} == {shape.updates * shape.accumulation}
    for number in (0, shape.updates - 1):
        turns = range(number * shape.accumulation, (number + 1) * shape.accumulation)
        parts = [batches[turn] for batches in dealt for turn in turns]
        assert {len(part) for part in parts} == {shape.micro}
        assert sorted(index for part in parts for index in part) == sorted(order.update(number))


@given(SIZES)
def test_any_update_can_be_asked_for_first(sizes: tuple[int, int, int, int, bool]) -> None:
    forward, backward = order_of(*sizes), order_of(*sizes)
    numbers = range(forward.shape.updates)
    assert [forward.update(n) for n in numbers] == [backward.update(n) for n in reversed(numbers)][::-1]


def test_micro_batches_end() -> None:
    batches = MicroBatches(order_of(10, 2, 1, 1, True), 0)
    assert len(list(batches)) == len(batches) == 15


@pytest.mark.parametrize("by_length", [True, False])
def test_seeds_and_passes_differ(by_length: bool) -> None:
    one, other = (order_of(64, 8, 1, 1, by_length, seed=seed) for seed in (0, 1))
    assert one.update(0) != other.update(0)
    passes = [sorted(tuple(sorted(one.update(8 * turn + number))) for number in range(8)) for turn in (0, 1)]
    assert passes[0] != passes[1]


def test_no_example_meets_itself_in_an_update() -> None:
    """Three passes of ten updates lie in one window; sorted by length alone, updates would hold an example thrice."""
    order = order_of(80, 8, 1, 1, True)
    assert all(len(set(order.update(number))) == 8 for number in range(30))


def test_grouping_by_length_saves_padding() -> None:
    def padding(by_length: bool) -> int:
        order = order_of(600, 8, 1, 1, by_length)
        lengths = [[(7 * index) % 31 for index in order.update(number)] for number in range(order.shape.updates)]
        return sum(max(update) * len(update) - sum(update) for update in lengths)

    assert padding(True) < 0.25 * padding(False)


def test_inside_an_update_groups_stay_together() -> None:
    shape = Shape(batch_size=12, micro=4, accumulation=3, processes=1, updates=5)
    groups = [index % 3 for index in range(60)]
    order = UpdateOrder(list(range(60)), shape, 0, by_length=True, groups=groups)
    for number in range(5):
        sequence = [groups[index] for index in order.update(number)]
        assert sequence == sorted(sequence)
