"""What a run has scored so far, and what follows from it: the best evaluation, and whether to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LOWER_IS_BETTER = frozenset({"perplexity"})


@dataclass(frozen=True)
class Evaluation:
    """The scores after some updates.

    Attributes:
        updates: Optimiser steps done.
        score: Mean over the datasets of the first metric, turned so that higher is better; None without validation.
        results: Dataset → metric, value, metrics, examples.
        training_loss: Mean loss per scored label since the evaluation before.
    """

    updates: int
    score: float | None
    results: dict[str, dict[str, Any]]
    training_loss: float


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation with the highest score; among equals the first."""
    best: Evaluation | None = None
    for evaluation in evaluations:
        if evaluation.score is not None and (best is None or evaluation.score > (best.score or 0.0)):
            best = evaluation
    return best


def out_of_patience(evaluations: Sequence[Evaluation], patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought no new best score."""
    best = best_of(evaluations)
    if patience is None or best is None:
        return False
    return sum(evaluation.updates > best.updates for evaluation in evaluations) >= patience


def oriented(metric: str, value: float) -> float:
    """A metric's value as a score of which more is better."""
    return -value if metric in LOWER_IS_BETTER else value


def evaluation_updates(updates: int, every: int) -> frozenset[int]:
    """After which updates to evaluate: every so many, and at the end."""
    return frozenset({*range(every, updates + 1, every), updates})
