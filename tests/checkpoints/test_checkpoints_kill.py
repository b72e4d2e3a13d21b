"""SIGKILL at any moment: no final name is incomplete, and the same work again gives the same bytes.

The child is forked, so that every single system call of a small write can be the last one within seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mats.checkpoints import CheckpointWriter, TensorInfo
from mats.checkpoints.partial import partial_folder
from mats.errors import OutputExists

CALLS = ("pwrite", "write", "ftruncate", "posix_fallocate", "fsync", "replace", "mkdir", "unlink", "rmdir")
TENSORS = [TensorInfo(f"w{i}", torch.float32, (i * 37 % 50 + 1, 20)) for i in range(9)]


class Killer:
    """Counts system calls that change files and dies in the middle of the one numbered `kill_at`."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.calls = 0

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.kill_at:
                if name in ("pwrite", "write"):  # half of the bytes get there
                    function(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


def work(output: Path, *, overwrite: bool, pause: float = 0) -> None:
    """A merge in small: some tensors are written, rewritten later in the pass; companions; publish."""
    with CheckpointWriter(
        output, TENSORS, identity="kill", max_shard_bytes=20_000, overwrite=overwrite
    ) as writer:  # fmt: skip
        for position, info in enumerate(TENSORS):
            value = torch.full(info.shape, float(position)) + torch.arange(info.numel).reshape(info.shape) / 1000
            time.sleep(pause)
            if info.name not in writer.done:
                writer.write(info.name, value * 2, note={"position": position, "pass": 1})
            if position % 5 == 0 and writer.notes[info.name]["pass"] == 1:
                writer.rewrite(info.name, value, note={"position": position, "pass": 2})
        for i in range(2):
            (writer.folder / f"companion{i}.json").write_text(str(sorted(writer.notes.items())))
        writer.publish()


def fork(output: Path, kill_at: int = -1, *, overwrite: bool = False, pause: float = 0) -> int:
    """Start `work` in a child process; returns its id."""
    process = os.fork()
    if process:
        return process
    killer = Killer(kill_at)
    try:
        for name in CALLS:
            setattr(os, name, killer.counted(name, getattr(os, name)))
        work(output, overwrite=overwrite, pause=pause)
        os._exit(0)
    finally:
        os._exit(1)


def run(output: Path, kill_at: int = -1, *, overwrite: bool = False) -> int:
    """`work` in a child; its exit code, negative for the signal that ended it."""
    _, status = os.waitpid(fork(output, kill_at, overwrite=overwrite), 0)
    return os.waitstatus_to_exitcode(status)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("straight") / "out"
    assert run(output) == 0
    return files(output)


def test_the_kill_can_be_any_system_call(tmp_path: Path, expected: dict[str, bytes]) -> None:
    resumed_to_the_same = 0
    for kill_at in range(1, 1000):
        output = tmp_path / str(kill_at) / "out"
        code = run(output, kill_at)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        complete = output.exists()
        if complete:
            assert files(output) == expected
        assert run(output, overwrite=complete) == 0
        assert files(output) == expected
        assert [entry.name for entry in output.parent.iterdir()] == ["out"]
        resumed_to_the_same += 1
    assert code == 0
    assert resumed_to_the_same >= 35  # what Python 3.10 makes; newer ones make more


def test_killed_again_and_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    output = tmp_path / "out"
    deaths = 0
    while run(output, 12 + 2 * deaths) != 0:  # each run takes up what those before it left, and dies a little later
        assert not output.exists() or files(output) == expected
        deaths += 1
    assert deaths >= 3
    assert files(output) == expected


def test_killed_while_replacing_an_older_output(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for kill_at in range(30, 1000):  # the calls before are those of the test above
        output = tmp_path / str(kill_at) / "out"
        output.mkdir(parents=True)
        (output / "model.safetensors").write_bytes(b"old")
        code = run(output, kill_at, overwrite=True)
        if code == 0:
            break
        if output.exists():  # between the two renames there is none
            assert files(output) in ({"model.safetensors": b"old"}, expected)
        assert run(output, overwrite=True) == 0
        assert files(output) == expected
    assert kill_at > 35


def test_what_a_kill_after_the_rename_leaves_is_cleared_by_the_refusal(tmp_path: Path) -> None:
    work(tmp_path / "out", overwrite=False)
    leftover = partial_folder(tmp_path / "out")
    leftover.mkdir()
    (leftover / "journal").write_text("{}\n")
    with pytest.raises(OutputExists, match="exists already"):
        work(tmp_path / "out", overwrite=False)
    assert not leftover.exists()


def test_killed_from_outside(tmp_path: Path, expected: dict[str, bytes]) -> None:
    output = tmp_path / "out"
    process = fork(output, pause=0.02)
    journal = partial_folder(output) / "journal"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert not output.exists()
    assert run(output) == 0
    assert files(output) == expected
