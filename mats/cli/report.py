"""`mats report`: table, plots and page from results that lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("report", short_help="Table, plots and one HTML page from results on disk.")(report)


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="A folder of mats sweep, or folders of mats merge.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go. Default: the sweep's own folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write scores and points as CSV and Parquet, plots, and report.html, from results that are there already.

    Merges are told apart by the keys in which their recipes differ; their scores are those that mats evaluate left.

    \b
    Examples:
      mats report exp_out/sweeps/digits_anchor
      mats report exp_out/merging/digits/mats exp_out/ties --output exp_out/comparison
    """
    from mats.cli.printing import print_json, print_lines
    from mats.errors import RequestError
    from mats.reporting.sweep_writer import write_sweep_report
    from mats.sweeps import gather_merges, gather_sweep

    if len(folders) == 1 and (folders[0] / "sweep.json").is_file():
        results, target = gather_sweep(folders[0]), output or folders[0]
    elif output is None:
        raise RequestError("--output: missing; a folder for the report on these merges would be right")
    else:
        results, target = gather_merges(folders), output
    files = write_sweep_report(results, target)
    if as_json:
        print_json({"output": str(target), "points": len(results.points), "files": files})
    else:
        print_lines([f"{len(results.points)} points", *(str(target / name) for name in files)])
