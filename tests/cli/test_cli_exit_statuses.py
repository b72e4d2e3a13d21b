"""Every way a command ends: status, line, JSON; in this process and in real ones."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_files import processor_seconds

from mats import errors
from mats.cli import failures, merge_dem, merge_ties  # noqa: F401 (before anything is replaced: they keep what they import)
from mats.cli import main as cli

RECIPE = "models: [a, b]\nmerge: average\noutput: out\n"


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is recognised by name."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (errors.WorkFailed("disk on fire"), 1, "mats: disk on fire\n"),
        (errors.StoreCorrupt("bad store"), 1, "mats: bad store\n"),
        (errors.RequestError("no such path"), 2, "mats: no such path\n"),
        (errors.RecipeError(["one", "two"]), 2, "mats: one\nmats: two\n"),
        (errors.InputsMismatch("does not fit"), 3, "mats: does not fit\n"),
        (errors.NotConverged("missed"), 4, "mats: missed\n"),
        (MemoryError(), 1, "mats: out of memory (no message); lower --memory-budget"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 1, "mats: out of memory (CUDA out of memory. Tried)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), 1, "mats: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 1, "mats: /data/x: no space left on the device"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/y"), 1, "mats: /data/y: Permission denied\n"),
        (KeyError("oops"), 1, "mats: unexpected KeyError: 'oops'; run with --debug for the traceback\n"),
        (ValueError("first\nsecond"), 1, "mats: unexpected ValueError: first; run with --debug"),
        (
            KeyboardInterrupt(),
            130,
            "mats: interrupted; finished work is kept, and the same command resumes: mats merge r.yaml",
        ),
        (typer.Abort(), 130, "mats: interrupted; finished work is kept"),
    ],
)
def test_each_error_has_its_status_and_line(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("mats.cli.requested.requested_merge", fail)
    assert cli.main(["merge", "r.yaml"]) == status
    printed = capsys.readouterr()
    assert printed.err.startswith(line)
    assert printed.out == ""
    told = [told_line.removesuffix(" --json") for told_line in printed.err.splitlines()]
    assert "Traceback" not in printed.err

    assert cli.main(["merge", "r.yaml", "--json"]) == status
    printed = capsys.readouterr()
    value = json.loads(printed.out)
    assert value["exit_status"] == status
    assert [f"mats: {fault}" for fault in value["error"].replace(" --json", "").splitlines()] == told
    assert printed.err == ""


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("mats.cli.requested.requested_merge", fail)
    assert cli.main(["merge", "r.yaml", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["mrge"], "No such command 'mrge'"),
        (["merge"], "Missing argument 'RECIPE'; see mats merge --help"),
        (["merge", "r.yaml", "--nope"], "No such option: --nope"),
        (["metadata"], "Missing command; see mats metadata --help"),
        (["merge", "none.yaml"], "none.yaml: no such file"),
        (["merge", "r.yaml", "out1", "out2"], "one output folder is enough"),
        (["save-metadata", "r.yaml", "stray"], "argument 'stray': not understood; key.path=value would be right"),
        (["evaluate", "seed=1"], "an override needs a RECIPE before it"),
        (["evaluate"], "give a RECIPE, or --model with --data"),
        (["evaluate", "r.yaml"], "models: none names data"),
        (["save-metadata", "r.yaml", "--model", "c"], "model 'c': not in the recipe; one of a, b would be right"),
        (["metadata", "add", "one", "-o", "two"], "1 store given; two or more would be right"),
    ],
)
def test_wrong_requests_end_with_2(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    assert cli.main(arguments) == 2
    assert line in capsys.readouterr().err


def test_done_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 0
    assert "Usage: mats" in capsys.readouterr().out


def test_only_commands_that_keep_their_work_promise_to_resume() -> None:
    assert (
        "resumes: mats save-metadata r.yaml"
        in failures.describe(KeyboardInterrupt(), ["save-metadata", "r.yaml"]).lines[0]
    )
    assert (
        "to start again: mats evaluate r.yaml"
        in failures.describe(KeyboardInterrupt(), ["evaluate", "r.yaml"]).lines[0]
    )
    assert "'models.a b.weight=1'" in failures.describe(KeyboardInterrupt(), ["merge", "models.a b.weight=1"]).lines[0]


def run(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mats.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, **options)


def test_statuses_of_real_processes(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("models: [a]\nanchor: 1\n")
    done = run("--version", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = run("merge", "bad.yaml", folder=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "mats: bad.yaml:2: unknown key 'anchor' here; it belongs to merge.anchor; received 1\n"
    as_json = run("merge", "bad.yaml", "--json", folder=tmp_path)
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["exit_status"] == 2


SLEEPER = """
import sys, time
from mats.cli import main as cli
import mats.cli.requested
def sleep(*_):
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    time.sleep(60)
mats.cli.requested.requested_merge = sleep
sys.exit(cli.main(["merge", "r.yaml"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_tells_how_to_resume(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that: the tests may be such a job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes: mats merge r.yaml" in printed
    assert "Traceback" not in printed


def test_a_reader_that_goes_away_is_no_noise(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "mats.cli", "--help"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert process.stderr == b""
    assert process.returncode == 1


def test_an_unknown_key_fails_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("models: [{path: a}]\nweight: 1\nmerge: {method: dare-ties, anhcor: 1}\n")
    result = run("check", "bad.yaml", folder=tmp_path)
    assert result.returncode == 2
    assert "it belongs to models.<name>.weight" in result.stderr
    assert "did you mean 'ties'" in result.stderr
    assert processor_seconds("check", "bad.yaml", folder=tmp_path) < 1.0
