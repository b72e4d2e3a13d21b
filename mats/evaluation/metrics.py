"""Metrics of predicted against right answers, on torchmetrics."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from mats.data.metric_names import CLASS_METRICS, REGRESSION_METRICS, TEXT_METRICS
from mats.errors import RequestError

METRICS = (*CLASS_METRICS, *REGRESSION_METRICS, *TEXT_METRICS, "perplexity")
LOWER_IS_BETTER = ("perplexity",)

# The two means that the GLUE papers publish.
MEANS = {"accuracy_f1": ("accuracy", "f1"), "pearson_spearman": ("pearson", "spearman")}


def compute_metrics(names: Sequence[str], predictions: Tensor, gold: Tensor, classes: int) -> dict[str, float]:
    """Each metric's value, of classes or of numbers.

    Args:
        names: Of accuracy (fraction right), f1 (of class 1 among two), f1_macro (mean over classes),
            matthews_correlation, accuracy_f1 (mean of the two); pearson, spearman, pearson_spearman (mean of the two).
            A correlation is 0 where all predictions, or all right answers, are one.
        predictions: int64 [N] for classes, floating point [N] for numbers.
        gold: The same of the right answers.
        classes: Number of classes; without effect on numbers.

    Raises:
        RequestError: a name is unknown, or is no metric of classes or numbers.
    """
    return {name: _value(name, predictions, gold, classes) for name in names}


def _value(name: str, predictions: Tensor, gold: Tensor, classes: int) -> float:
    from torchmetrics.functional import classification

    if name in MEANS:
        parts = [_value(part, predictions, gold, classes) for part in MEANS[name]]
        return sum(parts) / len(parts)
    count = max(2, classes)
    if name == "accuracy":
        return float(classification.multiclass_accuracy(predictions, gold, count, average="micro"))
    if name == "f1":
        # Of three classes and more it is the class 1 against the rest, as in scikit-learn's labels=[1].
        return float(classification.binary_f1_score((predictions == 1).long(), (gold == 1).long()))
    if name == "f1_macro":
        return float(classification.multiclass_f1_score(predictions, gold, count, average="macro"))
    if name == "matthews_correlation":
        return float(matthews_correlation(classification.multiclass_confusion_matrix(predictions, gold, count)))
    if name in REGRESSION_METRICS:
        return correlation(name, predictions, gold)
    raise unknown_metric(name)


def correlation(name: str, predictions: Tensor, gold: Tensor) -> float:
    """Pearson's, or Spearman's, correlation of two vectors [N]; 0 where one of them is constant."""
    from scipy.stats import rankdata
    from torchmetrics.functional.regression import pearson_corrcoef

    if bool((predictions == predictions[0]).all()) or bool((gold == gold[0]).all()):
        return 0.0
    if name == "spearman":
        # Of the ranks, ties at their mean rank. torchmetrics' own adds 1e-6 to the spread, and is wrong by as much.
        predictions, gold = (torch.as_tensor(rankdata(side.cpu().numpy())) for side in (predictions, gold))
    return float(pearson_corrcoef(predictions.double(), gold.double()))


def matthews_correlation(confusion: Tensor) -> Tensor:
    """Matthews correlation for any number of classes (Gorodkin's R_K), from counts [..., C, C] by right and predicted.

    0 where all predictions, or all right answers, are one class. torchmetrics 1.9 has its own rule there: it gives a
    model that always answers the majority class up to 0.58, which would pass for skill.
    """
    counts = confusion.double()
    total = counts.sum(dim=(-2, -1))
    right = counts.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    of_class, predicted = counts.sum(dim=-1), counts.sum(dim=-2)
    spread = (total**2 - (predicted**2).sum(dim=-1)) * (total**2 - (of_class**2).sum(dim=-1))
    covariance = right * total - (of_class * predicted).sum(dim=-1)
    return (covariance / spread.clamp(min=1).sqrt()).masked_fill(spread <= 0, 0.0)


def unknown_metric(name: str) -> RequestError:
    """The error for a metric that there is not."""
    near = difflib.get_close_matches(name, METRICS, n=1)
    return RequestError(f"metric '{name}' is unknown; {near[0] if near else ', '.join(METRICS)} would be right")
