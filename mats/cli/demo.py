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
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Tell the story so many times.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One seed: a look, with no idea of the spread.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo left there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train specialists on embedded data, measure, merge by every method, evaluate, explain; offline, on a CPU.

    \b
    Examples:
      mats demo
      mats demo --quick --output exp_out/look
    """
    from mats.cli.printing import print_json, print_lines, print_rich
    from mats.cli.progress_display import progress_display
    from mats.demo import run_demo
    from mats.reporting import scores_table

    with progress_display(as_json=as_json) as progress:
        result = run_demo(output, 1 if quick else seeds, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({**result.as_json(), "output": str(result.output), "seconds": result.seconds})
        return
    print_rich(scores_table(result.scores, title="Accuracy on the test split, in per cent"))
    memory = result.peak_memory_bytes / 1e9
    print_lines([f"{result.seconds:.0f} s, peak memory {memory:.1f} GB; everything is in {result.output}"])
