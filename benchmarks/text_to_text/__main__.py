"""The quality benchmark's text-to-text track: a small T5, six tasks as prompts and answers, the merges of the table.

    python benchmarks/text_to_text --data FOLDER            train, measure, merge, score, write the table
    python benchmarks/text_to_text --data FOLDER --tiny     the same way in two minutes, to see that it runs

No pretrained T5 comes with a package index, so the base is trained here: a mixture of all tasks, of rows that the
tasks' own models do not see. Whatever is done is kept under --home and not done again; a run that was stopped goes on.
Results: JSON under benchmarks/results, and docs/quality.md.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path
from typing import Annotated

sys.path.append(str(Path(__file__).parents[1] / "quality"))

import typer
from extent import FULL, TINY
from page import write_page
from text_study import TextStudy
from transformers.utils import logging

from mats.cli.progress_display import progress_display

NAME = "quality-text-to-text"
DataOption = Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="Folder of the tasks.")]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds of the individual models, as 0,1,2.")]
HomeOption = Annotated[Path, typer.Option("--home", help="Where everything is kept; of --tiny, NAME-tiny beside it.")]
TinyOption = Annotated[bool, typer.Option("--tiny", help="Few rows, two minutes; the page and the results stay.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of the JSON.")]


def run(
    data: DataOption,
    seeds: SeedsOption = "0",
    home: HomeOption = Path("exp_out/quality/text_to_text"),
    tiny: TinyOption = False,
    results: ResultsOption = Path("benchmarks/results"),
) -> None:
    """Train, measure, merge, score; what is there already is not done again."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    extent = TINY if tiny else FULL
    home = home.with_name(f"{home.name}-tiny") if tiny else home
    study = TextStudy(
        home,
        data,
        "full",
        tuple(int(seed) for seed in seeds.split(",")),
        extent.tasks,
        extent.sizes,
        extent.rows,
        extent,
    )
    with progress_display(as_json=False) as progress:
        path = study.report((home if tiny else results) / f"{NAME}.json", progress, joint=False)
    write_page(path, None if tiny else Path("docs/quality.md"))


if __name__ == "__main__":
    typer.run(run)
