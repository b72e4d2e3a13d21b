"""Scores of a learner on its validation splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mats.data import DatasetSpec, Example, Processor
from mats.evaluation import evaluate_dataset, prepare_data
from mats.training.history import oriented
from mats.training.learner import Learner


class Validation:
    """Scores every dataset's validation examples, which are tokenised once.

    Args:
        specs: The datasets.
        examples: Their validation examples.
        processors: Their tokenizers.
        batch_size: Examples in a forward pass.

    Raises:
        RequestError: a dataset has no metric, or metrics that cannot be computed together.
        DataError: an example lacks what the metrics need.
    """

    def __init__(
        self,
        specs: Sequence[DatasetSpec],
        examples: Sequence[Sequence[Example]],
        processors: Sequence[Processor | None],
        batch_size: int,
    ) -> None:
        prepared = [
            prepare_data(spec, rows, processor, batch_size, decoder_only=spec.task == "language_modeling")
            for spec, rows, processor in zip(specs, examples, processors, strict=True)
        ]
        self._data = [replace(data, batches=list(data.batches)) for data in prepared]

    def __call__(self, learner: Learner) -> dict[str, dict[str, Any]]:
        """Dataset → `metric`, `value`, `metrics`, `examples`, and `score`, of which more is better."""
        results = {}
        for data, model in zip(self._data, learner.models, strict=True):
            result = evaluate_dataset(model, data)
            results[data.spec.name] = {
                "metric": result.metric,
                "value": result.value,
                "metrics": dict(result.metrics),
                "examples": result.examples,
                "score": oriented(result.metric, result.value),
            }
        return results
