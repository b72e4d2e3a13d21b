"""The tasks of the benchmark: where their rows are, how they are split and scored, how long each is trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from mats.data import DatasetSpec, parse_spec
from mats.errors import DataError

MAX_LENGTH = 64  # tokens, as in the trial; longer texts are cut on the right
SOURCE = {"format": "json_lines", "files": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}}
"""Where a task's rows are, in its folder."""
LONGER = {"mrpc": 96, "rte": 128, "boolq": 160, "wiki_qa": 96}


@dataclass(frozen=True)
class Task:
    """One classification task in a folder of `train.jsonl`, `validation.jsonl`, `test.jsonl` and `labels.json`.

    Attributes:
        name: of the folder.
        epochs: passes over the training examples.
        train: training examples, the first of the file; the rest of the file is the split `tuning`, on which settings
            are chosen: neither the models nor their metadata have seen it.
        metric: what it is scored by (`metrics.OUTCOMES`).
    """

    name: str
    epochs: int
    train: int
    metric: str = "accuracy"


@dataclass(frozen=True)
class Sizes:
    """At most so many examples of each task.

    Attributes:
        training: in place of the task's own number; None: that number.
        metadata: of the validation split, for its metadata.
        tuning: for choosing settings.
        test: for scores; None: all.
    """

    training: int | None = None
    metadata: int = 1000
    tuning: int = 300
    test: int | None = None


FULL = Sizes()
QUICK = Sizes(training=320, metadata=100, tuning=100, test=150)
QUICK_TASKS = 4  # of the set: what a merge or a store takes grows with them, however few the examples

TASK_SETS: dict[str, tuple[Task, ...]] = {
    "first": (
        Task("sst2", epochs=2, train=2400),
        Task("trec", epochs=3, train=2400),
        Task("subj", epochs=2, train=2400),
        Task("sick", epochs=4, train=2400),
        Task("emotion", epochs=4, train=2400),
        Task("banking77", epochs=5, train=2400),
    ),
    "second": (
        Task("mrpc", epochs=4, train=3200),
        Task("cola", epochs=4, train=5500, metric="matthews_correlation"),
        Task("rte", epochs=6, train=1900),
        Task("wiki_qa", epochs=3, train=5000, metric="f1"),
        Task("boolq", epochs=6, train=1700),
    ),
}


def chosen_tasks(tasks: tuple[Task, ...], only: str | None, *, quick: bool) -> tuple[Task, ...]:
    """The tasks named in `only`, in the order of the set; where it is None all of them, a quick look the first few.

    Raises:
        typer.BadParameter: the set has no task of a name.
    """
    if only is None:
        return tasks[:QUICK_TASKS] if quick else tasks
    names = only.split(",")
    for name in names:
        if name not in {task.name for task in tasks}:
            known = ", ".join(task.name for task in tasks)
            raise typer.BadParameter(f"--tasks {name}: not in the set; one of {known} would be right")
    return tuple(task for task in tasks if task.name in names)


def load_task(task: Task, data: Path) -> DatasetSpec:
    """The dataset of a task, in the format that every command of `mats` reads.

    Raises:
        DataError: a file is missing or is not of this format.
    """
    folder = data / task.name
    wanted = [folder / name for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "labels.json")]
    for path in wanted:
        if not path.is_file():
            raise DataError(
                f"{path}: missing; a folder with train, validation and test .jsonl and labels.json is needed"
            )
    labels = json.loads(wanted[-1].read_text(encoding="utf-8"))
    with wanted[0].open(encoding="utf-8") as rows:
        first = json.loads(rows.readline())
    return parse_spec(
        {
            "name": task.name,
            "task": "text_classification",
            "source": SOURCE,
            "splits": {"tuning": {"of": "train", "without_first": task.train}},
            "columns": {"text": "text", "label": "label"}
            | ({"text_pair": "text_pair"} if "text_pair" in first else {}),
            "labels": labels,
            "max_length": LONGER.get(task.name, MAX_LENGTH),
        },
        folder=folder,
        where=str(folder),
    )
