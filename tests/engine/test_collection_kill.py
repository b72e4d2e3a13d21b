"""SIGKILL, for real: `save_metadata` in a process of its own, killed at moments spread over its whole run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from collection_cases import content_of, vit_request
from collection_worker import EVERY_STATISTIC

from mats.engine.collection import CollectionRequest, collection_folder, plan_save_metadata, save_metadata
from mats.errors import OutputExists
from mats.store import open_store, verify_store

BUDGET = 30_000


class Worker:
    """The child process of `collection_worker`."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, str(here / "collection_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, pause: float = 0.0) -> int:
        """Begin to measure; the process id to kill."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {BUDGET} {pause}\n")
        self.process.stdin.flush()
        return int(self.line())

    def finish(self) -> tuple[int, int, bool]:
        """Read to the end of a run: its exit code (negative: the signal), its steps, and whether it said `done`."""
        lines = []
        while not (line := self.line()).startswith("exit"):
            lines.append(line)
        return os.waitstatus_to_exitcode(int(line.split()[1])), lines.count("step"), "done" in lines

    def kill(self, worker: int, steps: int, delay: float) -> int:
        """SIGKILL `delay` seconds after `steps` steps; the exit code."""
        for _ in range(steps):
            if self.line() != "step":
                break
        time.sleep(delay)
        os.kill(worker, signal.SIGKILL)
        return self.finish()[0]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    child = Worker()
    yield child
    child.close()


@pytest.fixture
def request_here(tmp_path: Path) -> CollectionRequest:
    return vit_request(tmp_path, settings=EVERY_STATISTIC, memory_budget=BUDGET)


def assert_nothing_half_done(folder: Path) -> None:
    """What has its final name is complete."""
    assert [item.name for item in folder.parent.glob("[!.]*") if item != folder] == []
    if folder.exists():
        assert verify_store(folder) == []


def test_killed_again_and_again_it_ends_with_the_bytes_of_a_run_that_was_not(tmp_path, worker, request_here):
    expected = content_of(save_metadata(replace(request_here, root=tmp_path / "whole")))
    assert len(plan_save_metadata(request_here).collection.partitions) == 3
    folder = collection_folder(request_here)
    moments = [(0, 0.05), (1, 0.0), (1, 0.004), (2, 0.0), (2, 0.008), (1, 0.012), (2, 0.002), (1, 0.006), (3, 0.0)]
    steps_left = []
    for steps, delay in moments:
        assert worker.kill(worker.start(tmp_path), steps, delay) == -signal.SIGKILL
        assert_nothing_half_done(folder)
        steps_left.append(sum(1 for _ in folder.parent.glob(".*.partial/partition-*")))
    assert max(steps_left) >= 2  # the runs took each other's work over
    worker.start(tmp_path)
    code, _, done = worker.finish()
    assert (code, done) == (0, True)
    assert content_of(folder) == expected
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.008, 0.015, 0.03, 0.06])
def test_killed_while_the_store_is_written(tmp_path, worker, request_here, delay):
    """Twelve batches are measured by then; what follows is the last sum, the shards, the manifest and the rename."""
    folder = collection_folder(request_here)
    assert worker.kill(worker.start(tmp_path), 12, delay) in (-signal.SIGKILL, 0)
    assert_nothing_half_done(folder)
    save_metadata(request_here)
    assert verify_store(folder) == []
    assert content_of(folder) == content_of(save_metadata(replace(request_here, root=tmp_path / "whole")))
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


def test_a_living_run_keeps_its_lock_and_a_killed_one_frees_it(tmp_path, worker, request_here):
    pid = worker.start(tmp_path, pause=30.0)
    assert worker.line() == "step"
    with pytest.raises(OutputExists, match="another run is writing here"):
        save_metadata(request_here)
    assert worker.kill(pid, 0, 0.0) == -signal.SIGKILL
    assert open_store(save_metadata(request_here), verify=True).examples == 10
