"""The majority class: what always giving the most frequent answer scores, and which tasks' own models clearly beat it.

Of a task whose own model has learnt nothing a merge can keep nothing: its share would be noise, or flattery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean

from metrics import outcome, score
from tasks import Task

from mats.data import DatasetSpec, Example, load_examples

MARGIN = 0.05
"""By how much a task's own models must beat the majority class for the task to count, in its metric."""


def majority_outcomes(task: Task, spec: DatasetSpec, examples: Sequence[Example]) -> list[int]:
    """Outcomes of answering every example with the most frequent class of the train split, the lowest of equals."""
    trained = Counter(int(example.label) for example in load_examples(spec, "train"))
    most = max(sorted(trained), key=trained.__getitem__)
    return [outcome(task.metric, int(example.label), most) for example in examples]


def no_better(
    own: Mapping[int, Mapping[str, Sequence[int]]],
    majority: Mapping[str, Sequence[int]],
    metrics: Mapping[str, str],
) -> list[str]:
    """The tasks whose own models do not beat the majority class by `MARGIN`, in the mean over seeds.

    Args:
        own: seed → task → outcomes of the task's own model.
        majority: task → outcomes of the majority class.
        metrics: task → metric.
    """
    return [
        name
        for name, metric in metrics.items()
        if mean(score(metric, of[name]) for of in own.values()) < score(metric, majority[name]) + MARGIN
    ]


def counted(metrics: Mapping[str, str], weak: Sequence[str]) -> dict[str, str]:
    """The tasks that a share is the mean of, and their metrics; all of them where all are weak (a quick look)."""
    return {name: metric for name, metric in metrics.items() if name not in weak} or dict(metrics)
