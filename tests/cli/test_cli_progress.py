"""Bars on a terminal, notes elsewhere, silence with --json."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_files import Ended

from mats.cli.progress_display import PlainNotes, progress_display
from mats.progress import Silent

WORK = """
from mats.cli.progress_display import progress_display
with progress_display(as_json=False) as progress:
    progress.start("reading tensors", 3)
    progress.advance()
    progress.note("[a note] about 3 layers")
    progress.advance(2)
    progress.start("solving", None)
    progress.advance()
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def on_terminal(**environment: str) -> str:
    """What `WORK` draws on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not chunk:
            break
        drawn += chunk
    os.close(ours)
    assert process.wait(timeout=30) == 0
    return drawn.decode()


def test_bars_on_a_terminal() -> None:
    drawn = on_terminal()
    assert "reading tensors" in drawn
    assert "3/3" in drawn
    assert "solving" in drawn
    assert "[a note] about 3 layers" in drawn
    assert COLOUR.search(drawn)


def test_no_color_is_honoured() -> None:
    drawn = on_terminal(NO_COLOR="1")
    assert "reading tensors" in drawn
    assert not COLOUR.search(drawn)


def test_notes_alone_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(as_json=False) as progress:
        assert isinstance(progress, PlainNotes)
        progress.start("reading", 3)
        progress.advance()
        progress.note("three layers")
    assert capsys.readouterr() == ("", "mats: three layers\n")


def test_silence_with_json(workplace: Path, run_mats: Callable[..., Ended]) -> None:
    with progress_display(as_json=True) as progress:
        assert type(progress) is Silent
    assert run_mats("merge", "recipe.yaml", "--json").err == ""
    assert run_mats("merge", "recipe.yaml", "again").err.startswith("mats: 3 tensors of 2 models")


def test_demo_passes_its_options_on(
    run_mats: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mats.demo
    from mats.demo import DemoResult
    from mats.reporting import Scores

    seen = {}

    def run_demo(output: Path, seeds: int, **options: object) -> DemoResult:
        seen.update(output=output, seeds=seeds, overwrite=options["overwrite"])
        scores = Scores(
            ("one",), {"specialists": {"one": [0.9] * seeds}, "mats": {"one": [0.8] * seeds}}, "specialists"
        )
        return DemoResult(output, scores, {}, {}, 1.0, 10**9)

    monkeypatch.setattr(mats.demo, "run_demo", run_demo)
    ended = run_mats("demo", "--quick", "-o", tmp_path / "d", "--overwrite")
    assert (ended.status, seen) == (0, {"output": tmp_path / "d", "seeds": 1, "overwrite": True})
    assert "mats" in ended.out
    assert run_mats("demo", "--seeds", "2", "-o", tmp_path / "d", "--json").value["seeds"] == 2
    assert run_mats("demo", "--seeds", "0").status == 2
