"""Killed at any moment, the same request finishes and gives the same bytes, run.json aside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from engine_families import Family
from killed_merges import light_report, request

from mats.checkpoints import CheckpointWriter
from mats.engine import merge


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("method", ["mats", "ties", "heads"])
def test_the_same_bytes_after_five_kills(
    bert: Family, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ties` with the whole report, the others with a light one."""
    if method != "ties":
        monkeypatch.setattr("mats.engine.merging.write_report", light_report)
    output = tmp_path / "out"
    script = Path(__file__).with_name("killed_merges.py")
    arguments = [sys.executable, str(script), str(bert.base.parent), str(output), method]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    killed = contents(output)
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]
    output.rename(tmp_path / "killed")
    uninterrupted = contents(merge(request(bert.base.parent, output, method)).path)
    assert killed.keys() == uninterrupted.keys()
    assert "report.json" in killed
    assert ("heads/index.json" in killed) == (method == "heads")
    for name in killed:
        assert killed[name] == uninterrupted[name], f"{name} differs"


@pytest.mark.usefixtures("light_report")
def test_finished_groups_are_not_solved_again(bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(bert.base.parent, tmp_path / "out", "mats")
    original = CheckpointWriter.write
    count = 0

    def stop_late(self: CheckpointWriter, *args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count == 34:
            raise KeyboardInterrupt
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointWriter, "write", stop_late)
    with pytest.raises(KeyboardInterrupt):
        merge(wanted)
    solved = []
    monkeypatch.setattr(
        CheckpointWriter, "write", lambda self, name, *a, **k: (solved.append(name), original(self, name, *a, **k))
    )
    result = merge(wanted)
    assert 0 < len(solved) < 41 - 30
    assert len(result.report["layers"]) > 20
