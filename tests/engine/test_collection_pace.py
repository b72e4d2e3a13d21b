from __future__ import annotations

import pytest
from collection_cases import vit_request

from mats.engine.collection_pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("mats.engine.collection_pace.time", clock)
    return clock


def test_by_the_clock(tmp_path, clock):
    pace = Pace(vit_request(tmp_path, checkpoint_seconds=60.0))
    clock.now += 59
    assert not pace.due(5, last=False)
    clock.now += 1
    assert pace.due(6, last=False)


def test_a_slow_save_makes_the_next_one_later(tmp_path, clock):
    pace = Pace(vit_request(tmp_path, checkpoint_seconds=60.0))
    pace.saving()
    clock.now += 30
    pace.saved()
    clock.now += 299
    assert not pace.due(7, last=False)
    clock.now += 1
    assert pace.due(8, last=False)


def test_by_batches_the_clock_has_no_say(tmp_path, clock):
    pace = Pace(vit_request(tmp_path, checkpoint_batches=3))
    clock.now += 10_000
    assert [pace.due(done, last=False) for done in range(1, 7)] == [False, False, True] * 2


def test_after_the_last_batch_nothing_is_saved(tmp_path, clock):
    clock.now += 10_000
    assert not Pace(vit_request(tmp_path)).due(4, last=True)
