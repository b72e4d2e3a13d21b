"""The quality benchmark: real tasks, a real pretrained encoder, every method, the tasks' own heads.

    python benchmarks/quality --data FOLDER              everything: train, measure, merge, score, write the table
    python benchmarks/quality --data FOLDER --quick      one seed, four tasks, few examples, to see that it runs
    python benchmarks/quality --data FOLDER ablation     which setting of `mats` should be its default
    python benchmarks/quality --data FOLDER digits       the same question where specialists pull apart

Whatever is done is kept under --home and not done again; a run that was stopped goes on. Results: JSON under
benchmarks/results, and docs/quality.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import encoder
import typer
from ablation import decide
from digits import decide_on_digits
from page import write_page
from prediction import rank
from rows import QUICK_ROWS, ROWS
from study import Study
from tasks import FULL, QUICK, TASK_SETS, chosen_tasks
from transformers.utils import logging

from mats.cli.progress_display import progress_display

app = typer.Typer(add_completion=False, no_args_is_help=True)

DataOption = Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="Folder of the tasks.")]
SetOption = Annotated[str, typer.Option("--set", help=f"Tasks: {', '.join(TASK_SETS)}.")]
TrackOption = Annotated[str, typer.Option("--track", help="How models are fine-tuned: full, lora or ia3.")]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds of the individual models, as 0,1,2.")]
HomeOption = Annotated[Path, typer.Option("--home", help="Where everything is kept.")]
QuickOption = Annotated[
    bool,
    typer.Option(
        "--quick", help="To see that it runs: one seed, four tasks, few examples and settings, no slow merges."
    ),
]


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    data: DataOption,
    task_set: SetOption = "first",
    track: TrackOption = "full",
    seeds: SeedsOption = "0,1,2",
    home: HomeOption = Path("exp_out/quality"),
    quick: QuickOption = False,
    test_examples: Annotated[
        int | None, typer.Option("--test-examples", min=1, help="At most so many of each test split.")
    ] = None,
    only: Annotated[str | None, typer.Option("--tasks", help="Of the set, these tasks alone, as mrpc,cola.")] = None,
    slow: Annotated[bool, typer.Option("--slow/--no-slow", help="The rows that are not needed to compare.")] = True,
    refresh: Annotated[bool, typer.Option(help="The row that measures once more at the merged weights.")] = True,
    joint: Annotated[bool, typer.Option(help="Train the joint multitask model too.")] = True,
    results: Annotated[Path, typer.Option("--results", help="Folder of the JSON.")] = Path("benchmarks/results"),
) -> None:
    """Train, measure, merge, score; what is there already is not done again."""
    encoder.register()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tasks = chosen_tasks(TASK_SETS[task_set], only, quick=quick)
    kept = tuple(row for row in ROWS if (slow or not row.slow) and (refresh or not row.refresh))
    study = Study(
        home / (f"{task_set}-quick" if quick else task_set),
        data,
        track,
        (0,) if quick else tuple(int(seed) for seed in seeds.split(",")),
        tasks,
        sizes=QUICK if quick else replace(FULL, test=test_examples),
        rows=QUICK_ROWS if quick else kept,
    )
    name = f"quality-{study.home.name}-{track}"
    context.obj = (study, results, name)
    if context.invoked_subcommand is not None:
        return
    with progress_display(as_json=False) as progress:
        path = study.report(results / f"{name}.json", progress, joint=joint and track == "full" and not quick)
    write_page(path, None if quick else Path("docs/quality.md"))


@app.command()
def train(context: typer.Context) -> None:
    """Train the individual models alone (the longest part; several seeds may run in processes of their own)."""
    study: Study = context.obj[0]
    with progress_display(as_json=False) as progress:
        study.train(progress)


@app.command()
def ablation(context: typer.Context) -> None:
    """Compare settings of `mats` on examples that no model and no metadata has seen; the test split is not read."""
    study, results, name = context.obj
    with progress_display(as_json=False) as progress:
        decide(study, results / f"{name}-ablation.json", progress)


@app.command()
def digits(context: typer.Context) -> None:
    """The same settings on the demo's digits, where specialists pull apart."""
    study, results, _ = context.obj
    with progress_display(as_json=False) as progress:
        decide_on_digits(study.home.parent / "digits", study.seeds, results / "quality-digits-ablation.json", progress)


@app.command()
def prediction(context: typer.Context) -> None:
    """How well the metadata alone rank the data-free merges: predicted loss against measured scores."""
    study, results, name = context.obj
    with progress_display(as_json=False) as progress:
        rank(study, results / f"{name}-prediction.json", progress)


if __name__ == "__main__":
    app()
