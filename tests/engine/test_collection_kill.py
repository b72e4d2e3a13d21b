"""SIGKILL, for real: `save_metadata` in a process of its own, killed at moments spread over its whole run."""

from __future__ import annotations

import contextlib
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
        self.running: int | None = None
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, pause: float = 0.0) -> None:
        """Begin to measure."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {BUDGET} {pause}\n")
        self.process.stdin.flush()
        self.running = int(self.line())

    def finish(self) -> int:
        """Wait for the end of the run: its exit code, negative for a signal."""
        while not (line := self.line()).startswith("exit"):
            assert line in ("step", "done"), line
        self.running = None
        return os.waitstatus_to_exitcode(int(line.split()[1]))

    def wait_for_steps(self, steps: int) -> None:
        for _ in range(steps):
            assert self.line() == "step", "the run was over before the moment to kill it"

    def kill(self, delay: float) -> int:
        """SIGKILL after `delay` seconds; the exit code (0: the run was over by then)."""
        time.sleep(delay)
        assert self.running is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.running, signal.SIGKILL)
        return self.finish()

    def close(self) -> None:
        if self.running is not None:
            self.kill(0.0)
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
    taken_over = 0
    for steps, delay in [(0, 0.05), (1, 0.0), (1, 0.01), (2, 0.0), (2, 0.025), (3, 0.0), (3, 0.01), (3, 0.02)]:
        worker.start(tmp_path, pause=0.02)
        worker.wait_for_steps(steps)
        assert worker.kill(delay) == -signal.SIGKILL
        assert_nothing_half_done(folder)
        taken_over = sum(1 for _ in folder.parent.glob(".*.partial/partition-*"))
    assert taken_over >= 1
    worker.start(tmp_path)
    assert worker.finish() == 0
    assert content_of(folder) == expected
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.008, 0.015, 0.03, 0.06])
def test_killed_while_the_store_is_written(tmp_path, worker, request_here, delay):
    """Twelve batches are measured by then; what follows is the last sum, the shards, the manifest and the rename."""
    folder = collection_folder(request_here)
    worker.start(tmp_path)
    worker.wait_for_steps(12)
    assert worker.kill(delay) in (-signal.SIGKILL, 0)
    assert_nothing_half_done(folder)
    save_metadata(request_here)
    assert verify_store(folder) == []
    assert content_of(folder) == content_of(save_metadata(replace(request_here, root=tmp_path / "whole")))
    assert [item.name for item in folder.parent.iterdir() if item != folder] == [f".{folder.name}.lock"]


def test_a_living_run_keeps_its_lock_and_a_killed_one_frees_it(tmp_path, worker, request_here):
    worker.start(tmp_path, pause=30.0)
    worker.wait_for_steps(1)
    with pytest.raises(OutputExists, match="another run is writing here"):
        save_metadata(request_here)
    assert worker.kill(0.0) == -signal.SIGKILL
    assert open_store(save_metadata(request_here), verify=True).examples == 10
