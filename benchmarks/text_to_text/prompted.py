"""The tasks as text-to-text: what the model reads, which words it chooses among, and which rows teach what.

The first rows of each task's train split teach the base, all tasks together; the next ones teach the task's own model;
what is left is the split `tuning`, on which scales are chosen. No row serves twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tasks import SOURCE, Task

from mats.data import DatasetSpec, parse_spec
from mats.errors import DataError

MAX_LENGTH, MAX_TARGET_LENGTH = 64, 16  # tokens; longer texts are cut on the right
SHARED, OWN = "shared", "own"
"""Splits: what the base learns, and what a task's own model learns."""


@dataclass(frozen=True)
class PromptedTask(Task):
    """A task with a prompt; `train` counts the rows that teach its own model.

    Attributes:
        prompt: `{column}` is filled from the row.
        shared: rows that teach the base.
    """

    prompt: str = "{text}"
    shared: int = 1500


TASKS = (
    PromptedTask("sst2", epochs=3, train=2400, prompt="sentiment: {text}"),
    PromptedTask("trec", epochs=4, train=2400, prompt="question type: {text}"),
    PromptedTask("subj", epochs=3, train=2400, prompt="subjective or objective: {text}"),
    PromptedTask("sick", epochs=5, train=2400, prompt="premise: {text} hypothesis: {text_pair}"),
    # 3231 rows in all
    PromptedTask("emotion", epochs=4, train=2300, prompt="emotion: {text}", shared=600),
    PromptedTask("banking77", epochs=6, train=2400, prompt="banking question: {text}"),
)


def label_words(task: PromptedTask, data: Path) -> tuple[str, ...]:
    """What the model writes for each class, in the order of the classes.

    Raises:
        DataError: `labels.json` is missing.
    """
    path = data / task.name / "labels.json"
    if not path.is_file():
        raise DataError(f"{path}: missing; a list with a name for each class is needed")
    return tuple(name.replace("_", " ") for name in json.loads(path.read_text(encoding="utf-8")))


def load_prompted(task: PromptedTask, data: Path) -> DatasetSpec:
    """The dataset of a task, in the format that every command of `mats` reads."""
    return parse_spec(
        {
            "name": task.name,
            "task": "text_to_text",
            "source": SOURCE,
            "splits": {
                SHARED: {"of": "train", "first": task.shared},
                OWN: {"of": "train", "without_first": task.shared},
                "tuning": {"of": "train", "without_first": task.shared + task.train},
            },
            "template": task.prompt,
            "choices": label_words(task, data),
            "max_length": MAX_LENGTH,
            "max_target_length": MAX_TARGET_LENGTH,
        },
        folder=data / task.name,
        where=str(data / task.name),
    )
