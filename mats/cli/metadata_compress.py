"""`mats metadata compress`: a smaller copy of a store, and what was lost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import JsonOption, OverwriteOption


def compress(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Store to compress; it stays as it is.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the copy goes.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="bfloat16 (half the bytes), float8 (a quarter), low_rank:R or block_diagonal:K; default bfloat16.",
            show_default=False,
        ),
    ] = "bfloat16",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a smaller copy of a store, which every command reads like the store itself.

    The loss is printed: relative Frobenius errors, in the median and at worst. Matrices stay positive semi-definite
    and keep their diagonal.

    \b
    Examples:
      mats metadata compress metadata/paws/paws-validation-empirical-mean-1f2e3d4c -o metadata/paws/small
      mats metadata compress metadata/paws/whole -o metadata/paws/tiny --format low_rank:64
    """
    from mats.cli.printing import print_json, print_lines, print_table
    from mats.cli.progress_display import progress_display
    from mats.store import compress_store

    with progress_display(as_json=as_json) as progress:
        done = compress_store(store, output, form, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({**asdict(done), "format": form})
        return
    share = done.bytes_after / max(done.bytes_before, 1)
    print_lines(
        [
            f"{output}: {done.bytes_after:,} bytes of {done.bytes_before:,} ({share:.1%}), "
            f"relative error {done.relative_error:.2g}"
        ]
    )
    if done.bytes_after >= done.bytes_before:
        print_lines([f"nothing has shrunk: every sum takes as much in {form}, so it is kept as it was"])
    rows = [
        (x.statistic, x.sums, x.bytes_before, x.bytes_after, x.median, x.worst, x.worst_name) for x in done.statistics
    ]
    print_table("", ("statistic", "sums", "bytes", "bytes now", "median error", "worst error", "worst at"), rows)
    print_lines([f"merge with it: `metadata: {output}` at this model in a recipe"])
