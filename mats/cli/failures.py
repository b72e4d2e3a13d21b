"""Every way a command can end, as an exit status and lines for people or machines (docs/commands.md has the table)."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from mats.errors import MatsError, RecipeError, is_out_of_memory

DONE, FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""click's own class, found through typer, which carries click inside itself since 0.20 and beside itself before."""
ClickException: type[Exception] = UsageError.__bases__[0]

RESUMABLE = ("train", "save-metadata", "merge", "sweep", "generate", "harness")
"""Commands that keep what they have done when they are stopped."""


@dataclass(frozen=True)
class Failure:
    """How a command failed: exit status, one line per fault, and the name of the error class."""

    exit_status: int
    lines: tuple[str, ...]
    kind: str


def describe(error: BaseException, arguments: Sequence[str]) -> Failure:
    """What to tell about `error`; anything unforeseen is a failure of the work, with a way to its traceback."""
    kind = type(error).__name__
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Failure(INTERRUPTED, (_interrupted(arguments),), "Interrupted")
    if isinstance(error, RecipeError):
        return Failure(error.exit_status, error.faults, kind)
    if isinstance(error, MatsError):
        return Failure(error.exit_status, tuple(str(error).splitlines()) or (kind,), kind)
    if isinstance(error, ClickException):
        return Failure(WRONG_REQUEST, (_usage(error),), "UsageError")
    if is_out_of_memory(error):
        setting = "train.micro_batch_size" if arguments[:1] == ["train"] else "--memory-budget or curvature.batch_size"
        advice = f"lower {setting}, or choose a device with more memory"
        return Failure(FAILED, (f"out of memory ({_first_line(error)}); {advice}",), "OutOfMemory")
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_os_error(error)
    text = f"unexpected {kind}: {_first_line(error)}; run with --debug for the traceback"
    return Failure(FAILED, (text,), kind)


def report(failure: Failure, *, as_json: bool) -> None:
    """Print a failure: lines with the program's name on stderr, or one JSON object on stdout."""
    if as_json:
        value = {"error": "\n".join(failure.lines), "kind": failure.kind, "exit_status": failure.exit_status}
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    for line in failure.lines:
        sys.stderr.write(f"mats: {line}\n")


def _interrupted(arguments: Sequence[str]) -> str:
    command = shlex.join(["mats", *arguments])
    if any(argument in RESUMABLE for argument in arguments[:2]):
        return f"interrupted; finished work is kept, and the same command resumes: {command}"
    return f"interrupted; to start again: {command}"


def _usage(error: BaseException) -> str:
    """click's message with the command whose help explains it."""
    message = " ".join(str(error.format_message() if hasattr(error, "format_message") else error).split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "mats"
    return f"{message.rstrip('.')}; see {path} --help"


def _describe_os_error(error: OSError) -> Failure:
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else Path.cwd()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{where}: no space left on the device; free some or choose another output"
        return Failure(FAILED, (text,), "OutOfSpace")
    return Failure(FAILED, (f"{where}: {error.strerror or error}",), type(error).__name__)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
