"""Processes launched together sum, gather and stop together; none waits for one that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks

from mats.engine.processes import launched, together
from mats.errors import NonFiniteStatistic, RequestError, WorkFailed
from mats.progress import Silent


def test_one_process_is_alone() -> None:
    with together() as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        tensor = torch.ones(3)
        assert processes.sum_(tensor) is tensor
        assert processes.gather("x") == ["x"]
        assert processes.first_says(lambda: 7) == 7
        processes.check()
        processes.barrier()
        silent = Silent()
        assert processes.progress(silent) is silent


@pytest.mark.slow
def test_one_process_imports_nothing_for_several() -> None:
    code = (
        "import sys, torch; before = 'torch.distributed.distributed_c10d' in sys.modules\n"
        "from mats.engine.processes import together\n"
        "with together(): pass\n"
        "assert ('torch.distributed.distributed_c10d' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def exchange() -> object:
    """Sums of both precisions, a gathering, a word of the first; and all that once more after parting."""
    said = []
    for _ in range(2):
        with together() as processes:
            rank = processes.rank
            whole = processes.sum_(torch.full((3, 5), float(rank + 1), dtype=torch.float64))
            single = processes.sum_(torch.arange(7, dtype=torch.float32) * 10**rank)
            names = processes.gather({"rank": rank, "ids": ["x" * 10 * rank]})
            word = processes.first_says(lambda own=rank: f"from {own}")
            with together() as again:
                assert again is processes
            said.append((whole.tolist(), single.tolist(), names, word, processes.progress(Silent()) is not None))
    return said


def test_three_processes_sum_and_gather(tmp_path: Path) -> None:
    names = [{"rank": rank, "ids": ["x" * 10 * rank]} for rank in range(3)]
    expected = ([[6.0] * 5] * 3, [111.0 * step for step in range(7)], names, "from 0", True)
    assert run_ranks(exchange, tmp_path, count=3) == [[expected] * 2] * 3


def fail_while_others_wait() -> None:
    with together() as processes:
        if processes.rank == 1:
            raise NonFiniteStatistic("site layer.0: activations are NaN")
        processes.barrier()


def fail_while_others_work() -> None:
    with together() as processes:
        if processes.rank == 1:
            raise NonFiniteStatistic("site layer.0: activations are NaN")
        for _ in range(10_000):
            processes.check()
            time.sleep(0.01)


@pytest.mark.parametrize("job", [fail_while_others_wait, fail_while_others_work])
def test_all_stop_when_one_fails(job: object, tmp_path: Path) -> None:
    assert callable(job)
    started = time.monotonic()
    heard, own = run_ranks(job, tmp_path)
    assert isinstance(own, NonFiniteStatistic)
    assert isinstance(heard, WorkFailed)
    assert str(heard) == f"process 1 of 2 stopped: {own}"
    assert time.monotonic() - started < 60, "they waited for the time-out"


def die() -> None:
    with together() as processes:
        if processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        processes.barrier()


def test_all_stop_when_one_is_killed(tmp_path: Path) -> None:
    survivor, gone = run_ranks(die, tmp_path)
    assert gone == -signal.SIGKILL
    assert str(survivor).startswith("process 0 of 2 stops: another one is gone")


def come_late() -> None:
    with together(wait_seconds=0.5) as processes:
        if processes.rank == 1:
            time.sleep(1.5)
        processes.barrier()


def test_waiting_has_an_end(tmp_path: Path) -> None:
    waiting, late = run_ranks(come_late, tmp_path)
    assert str(waiting).startswith("process 0 of 2 stops: another one did not come to the same point within 0.5 s")
    assert "did not come" in str(late)


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("-1", "2"), ("0", "many")])
def test_ranks_that_do_not_fit(rank: str, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(RequestError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        launched()


def test_a_launcher_must_say_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RequestError, match="not MASTER_ADDR; start with accelerate launch"), together():
        pass
