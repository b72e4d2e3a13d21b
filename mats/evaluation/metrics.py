"""Metrics of predicted against right answers, on torchmetrics."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import Tensor

from mats.errors import RequestError

METRICS = ("accuracy", "f1_macro", "matthews_correlation")


def compute_metrics(names: Sequence[str], predictions: Tensor, gold: Tensor, classes: int) -> dict[str, float]:
    """Each metric's value.

    Args:
        names: Of `METRICS`: accuracy (fraction right), f1_macro (mean over classes), matthews_correlation.
        predictions: int64 [N].
        gold: int64 [N].
        classes: Number of classes.

    Raises:
        RequestError: a name is unknown.
    """
    from torchmetrics.functional import classification

    count = max(2, classes)
    values: dict[str, float] = {}
    for name in names:
        if name == "accuracy":
            value = classification.multiclass_accuracy(predictions, gold, count, average="micro")
        elif name == "f1_macro":
            value = classification.multiclass_f1_score(predictions, gold, count, average="macro")
        elif name == "matthews_correlation":
            value = matthews_correlation(classification.multiclass_confusion_matrix(predictions, gold, count))
        else:
            near = difflib.get_close_matches(name, METRICS, n=1)
            raise RequestError(f"metric '{name}' is unknown; {near[0] if near else ', '.join(METRICS)} would be right")
        values[name] = float(value)
    return values


def matthews_correlation(confusion: Tensor) -> Tensor:
    """Matthews correlation for any number of classes (Gorodkin's R_K), from counts [C, C] by right and predicted class.

    0 where all predictions, or all right answers, are one class. torchmetrics 1.9 has its own rule there: it gives a
    model that always answers the majority class up to 0.58, which would pass for skill.
    """
    counts = confusion.double()
    total, right = counts.sum(), counts.diagonal().sum()
    of_class, predicted = counts.sum(dim=1), counts.sum(dim=0)
    spread = (total**2 - (predicted**2).sum()) * (total**2 - (of_class**2).sum())
    covariance = right * total - (of_class * predicted).sum()
    return covariance / spread.sqrt() if spread > 0 else counts.new_zeros(())
