"""`mats`: the commands, and the one place where an error becomes an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from mats import __version__
from mats.cli import (
    check,
    demo,
    evaluate,
    failures,
    generate,
    harness,
    inspect,
    merge,
    metadata,
    plan_metadata,
    predict,
    refresh,
    report,
    save_metadata,
    sweep,
    toxicity,
    train,
)

EPILOG = (
    "Exit status: 0 done; 1 the work failed; 2 the request is wrong; 3 the inputs do not fit together; "
    "4 done, but a solve missed its tolerance (--strict); 130 interrupted."
)

app = typer.Typer(
    name="mats",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mats {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Merge fine-tuned models by matching them in their task subspaces.

    \b
    Two steps, joined by files:
      mats save-metadata recipe.yaml    measure each model on its own data, once
      mats merge recipe.yaml            solve for the weights that serve them all

    \b
    Examples:
      mats demo --quick
      mats merge configs/recipes/digits.yaml exp_out/digits merge.anchor=0.2
    """
    del version, debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _command in (
    train,
    plan_metadata,
    save_metadata,
    merge,
    refresh,
    predict,
    evaluate,
    sweep,
    report,
    generate,
    toxicity,
    harness,
    check,
    inspect,
    demo,
):
    _command.register(app)
metadata.register(app)


def run() -> None:
    """Entry point of the `mats` program."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; no exception leaves this function."""
    as_json = "--json" in arguments
    given = [argument for argument in arguments if argument != "--debug"]
    try:
        with _termination_interrupts():
            status = _invoke(given)
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _give_up_on_output()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else failures.FAILED
    except BaseException as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        failure = failures.describe(error, given)
        try:
            failures.report(failure, as_json=as_json)
        except BrokenPipeError:
            _give_up_on_output()
        return failure.exit_status


def _invoke(arguments: Sequence[str]) -> int:
    """Let typer parse and call. Its own `main` is passed by: it would turn Ctrl-C and a broken pipe into exits."""
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("mats", list(arguments)) as context:
            result = command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return result if isinstance(result, int) else failures.DONE


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """While this is open, SIGTERM does what Ctrl-C does: partial work is closed in order, and how to resume is told."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _give_up_on_output() -> int:
    """The reader went away (`| head`): say nothing more, not even when Python flushes at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failures.FAILED
