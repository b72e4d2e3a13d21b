"""Scores of a merged body under each task's own head, example by example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from majority import majority_outcomes
from metrics import outcome, score, share_of
from tasks import Task, load_task

from mats.checkpoints import load_model
from mats.data import DatasetSpec, Example, load_examples, load_processor, make_batches
from mats.evaluation import evaluate
from mats.progress import Progress


class Scorer:
    """The tasks' examples, tokenised once for all models.

    Attributes:
        tasks: what is scored.
        split: of each.
        limit: at most so many examples of each; None: all.
        majority: task → outcomes of always answering the most frequent class.
    """

    kind = "text_classification"
    """What models are loaded for."""

    def __init__(self, tasks: Sequence[Task], data: Path, base: Path, split: str, limit: int | None) -> None:
        self.tasks = tuple(tasks)
        self.split = split
        self.limit = limit
        self.majority: dict[str, list[int]] = {}
        self._batches = {}
        for task in tasks:
            spec = self.spec(task, data)
            examples = load_examples(spec, split, limit=limit)
            processor = load_processor(base, spec)
            batches = make_batches(examples, spec, processor, self.batch_size(examples), by_length=True)
            self._batches[task.name] = list(batches)
            self.majority[task.name] = majority_outcomes(task, spec, examples)

    def spec(self, task: Task, data: Path) -> DatasetSpec:
        """A task's dataset."""
        return load_task(task, data)

    def batch_size(self, examples: Sequence[Example]) -> int:  # noqa: ARG002 - answers that are ranked ask them
        """Examples in one forward pass."""
        return 50

    def correct(self, task: Task, model: Path, head: str | None, base: Path, progress: Progress) -> list[int]:
        """The outcome of each example, in the order of the file; by accuracy, 1 where it is right, else 0."""
        loaded = load_model(model, self.kind, head=head, base=base)
        batches = self._batches[task.name]
        progress.start(f"{model.name} on {task.name}", len(batches))
        result = evaluate(loaded, batches, progress=progress)
        found = {
            entry["example_id"]: outcome(task.metric, entry["gold"], entry["prediction"])
            for entry in result.predictions
        }
        return [found[name] for name in sorted(found, key=lambda name: int(name.rsplit(":", 1)[1]))]

    def merged(self, folder: Path, base: Path, progress: Progress) -> dict[str, list[int]]:
        """The merged body on every task, each with its own head."""
        return {task.name: self.correct(task, folder, self.head(task), base, progress) for task in self.tasks}

    def head(self, task: Task) -> str | None:
        """The head that a merged body is scored under."""
        return task.name


def accuracy(correct: Sequence[int]) -> float:
    """The share of right answers."""
    return score("accuracy", correct)


def normalised(
    outcomes: Mapping[str, Sequence[int]],
    individual: Mapping[str, Sequence[int]],
    metrics: Mapping[str, str] | None = None,
) -> float:
    """Mean over tasks of the score ÷ that of the task's own model.

    Args:
        outcomes: task → the outcome of each example.
        individual: the same of the tasks' own models.
        metrics: task → metric, of the tasks that count; None: all of them, by accuracy.
    """
    metrics = dict.fromkeys(individual, "accuracy") if metrics is None else metrics
    return mean(task_shares(outcomes, individual, metrics).values())


def task_shares(
    outcomes: Mapping[str, Sequence[int]], individual: Mapping[str, Sequence[int]], metrics: Mapping[str, str]
) -> dict[str, float]:
    """Of each task in `metrics`: the score ÷ that of the task's own model."""
    return {
        name: float(share_of(score(metric, outcomes[name]), score(metric, individual[name])))
        for name, metric in metrics.items()
    }
