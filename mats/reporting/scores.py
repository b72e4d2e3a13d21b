"""How methods did on tasks: one score per method, task and seed, and what follows from them.

The normalised score of a method on a task is its score divided by that of the model fine-tuned on the task alone (the
`reference` row), seed by seed; the mean over tasks is taken before the mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mats.errors import DataError


@dataclass(frozen=True)
class Scores:
    """Scores of several methods on several tasks.

    Attributes:
        tasks: in the order of columns.
        values: method → task → one score in [0, 1] per seed, seeds in one order everywhere.
        reference: the method by which scores are normalised; None where there is none.
        metric: what a score is.
    """

    tasks: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    reference: str | None = None
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        """Check that every method has every task with the same number of seeds.

        Raises:
            DataError: one has not, or the reference is not among the methods.
        """
        if not self.tasks or not self.values:
            raise DataError("scores: there is no method or no task to tell about")
        if self.reference is not None and self.reference not in self.values:
            raise DataError(f"scores: the reference {self.reference!r} is not among the methods {list(self.values)}")
        for method, scores in self.values.items():
            for task in self.tasks:
                received = len(scores.get(task, ()))
                if received != self.seeds or received == 0:
                    expected = self.seeds or "at least 1"
                    raise DataError(f"scores: method {method!r}, task {task!r}: {received} scores, expected {expected}")

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of rows."""
        return tuple(self.values)

    @property
    def seeds(self) -> int:
        """How many scores each method has on each task."""
        first = next(iter(self.values.values()))
        return len(first.get(self.tasks[0], ()))

    def task_mean(self, method: str, task: str) -> float:
        """Mean over seeds."""
        return _mean(self.values[method][task])

    def mean(self, method: str) -> float:
        """Mean over tasks and seeds."""
        return _mean(self.by_seed(method))

    def spread(self, method: str) -> float | None:
        """Standard deviation over seeds of the mean over tasks (n − 1 in the divisor); None for one seed."""
        values = self.by_seed(method)
        if len(values) < 2:
            return None
        center = _mean(values)
        return math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))

    def by_seed(self, method: str) -> list[float]:
        """Mean over tasks, one number per seed."""
        return [_mean([self.values[method][task][seed] for task in self.tasks]) for seed in range(self.seeds)]

    def normalised(self, method: str) -> float | None:
        """Mean over seeds of the mean over tasks of score ÷ reference score; None without a reference.

        A task on which the reference scores 0 has no normalised score, and so neither has the mean.
        """
        if self.reference is None:
            return None
        ratios = []
        for task in self.tasks:
            for score, best in zip(self.values[method][task], self.values[self.reference][task], strict=True):
                if best == 0:
                    return None
                ratios.append(score / best)
        return _mean(ratios)

    def best(self) -> str | None:
        """The method with the highest mean, the reference apart; None if there is no other."""
        others = [method for method in self.methods if method != self.reference]
        return max(others, key=self.mean, default=None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
