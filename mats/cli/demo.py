"""`mats demo`: the whole story on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("demo", short_help="The whole story on embedded data, offline.")(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")] = Path(
        "exp_out/demo"
    ),
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Repeat with so many seeds.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One seed and less training: a look, not a result.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train specialists on embedded data, measure, merge by every method, evaluate, explain; offline, on a CPU.

    \b
    Examples:
      mats demo
      mats demo --quick --output exp_out/look
    """
    from mats.cli.printing import print_json
    from mats.cli.progress_display import progress_display
    from mats.demo import run_demo

    with progress_display(as_json=as_json) as progress:
        results = run_demo(output, seeds=seeds, quick=quick, progress=progress)
    if as_json:
        print_json(results)
