"""What scoring one model on one dataset gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.files import write_bytes_atomically


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one model on one dataset.

    Attributes:
        metric: Name of the main metric.
        value: Its value, a fraction (0.83, not 83).
        metrics: Every metric asked for, the main one included.
        examples: Number of examples scored.
        predictions: Per example, in order: `example_id`, `prediction` and `gold` (indices of classes or choices) and
            `scores` (logits of the classes; log-probabilities of the choices).
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    examples: int
    predictions: tuple[dict[str, Any], ...]

    @property
    def standard_error(self) -> float | None:
        """Binomial standard error of an accuracy; None for other metrics."""
        if self.metric != "accuracy":
            return None
        return math.sqrt(self.value * (1.0 - self.value) / self.examples)

    def summary(self) -> dict[str, Any]:
        """The result without its predictions, ready for JSON."""
        return {
            "metric": self.metric,
            "value": self.value,
            "standard_error": self.standard_error,
            "metrics": dict(self.metrics),
            "examples": self.examples,
        }


def write_predictions(result: EvaluationResult, path: Path) -> Path:
    """Write one JSON object per example to `path` (its folder is made), whole or not at all; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in result.predictions]
    write_bytes_atomically(path, ("\n".join(lines) + "\n").encode())
    return path
