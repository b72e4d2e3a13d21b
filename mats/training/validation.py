"""Scores of a learner on its validation splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mats.data import Batch, DatasetSpec, Example, Processor, make_batches
from mats.evaluation import evaluate
from mats.training.history import oriented
from mats.training.learner import Learner


class Validation:
    """Scores every dataset's validation examples; the batches are made once.

    Args:
        specs: The datasets.
        examples: Their validation examples.
        processors: Their tokenizers.
        batch_size: Examples in a forward pass.
    """

    def __init__(
        self,
        specs: Sequence[DatasetSpec],
        examples: Sequence[Sequence[Example]],
        processors: Sequence[Processor | None],
        batch_size: int,
    ) -> None:
        self._specs = specs
        self._batches: list[list[Batch]] = [
            list(make_batches(rows, spec, processor, batch_size))
            for spec, rows, processor in zip(specs, examples, processors, strict=True)
        ]

    def __call__(self, learner: Learner) -> dict[str, dict[str, Any]]:
        """Dataset → `metric`, `value`, `metrics`, `examples`, and `score`, of which more is better."""
        results = {}
        for spec, model, batches in zip(self._specs, learner.models, self._batches, strict=True):
            result = evaluate(model, batches, metrics=spec.metrics, length_normalization=spec.length_normalization)
            results[spec.name] = {
                "metric": result.metric,
                "value": result.value,
                "metrics": dict(result.metrics),
                "examples": result.examples,
                "score": oriented(result.metric, result.value),
            }
        return results
