"""Metrics of many resamples at once, for the bootstrap: torchmetrics takes one at a time, or five times as long."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mats.data.metric_names import REGRESSION_METRICS
from mats.evaluation.metrics import MEANS, matthews_correlation

CELLS_AT_ONCE = 1 << 24  # entries of the confusion counts held in memory


def resampled_class_metric(name: str, predictions: Tensor, gold: Tensor, classes: int) -> Tensor:
    """A metric of classes for each of R resamples: int64 [R, N] and [R, N] → float64 [R].

    Equal to `compute_metrics` row by row.
    """
    if name in MEANS:
        parts = [resampled_class_metric(part, predictions, gold, classes) for part in MEANS[name]]
        return torch.stack(parts).mean(dim=0)
    if name == "accuracy":
        return (predictions == gold).double().mean(dim=1)
    if name == "f1":
        return _f1(predictions == 1, gold == 1)
    step = max(1, CELLS_AT_ONCE // classes**2)
    parts = []
    for start in range(0, len(predictions), step):
        counts = confusion_counts(predictions[start : start + step], gold[start : start + step], classes)
        parts.append(matthews_correlation(counts) if name == "matthews_correlation" else _f1_macro(counts))
    return torch.cat(parts)


def resampled_number_metric(name: str, predictions: Tensor, gold: Tensor) -> Tensor:
    """A correlation for each of R resamples: float64 [R, N] and [R, N] → [R]; 0 where one side is constant."""
    from scipy.stats import rankdata

    assert name in REGRESSION_METRICS
    if name in MEANS:
        return torch.stack([resampled_number_metric(part, predictions, gold) for part in MEANS[name]]).mean(dim=0)
    if name == "spearman":  # Pearson's correlation of the ranks, ties at their mean rank
        predictions, gold = (torch.as_tensor(rankdata(side.numpy(), axis=1)) for side in (predictions, gold))
    x, y = (side - side.mean(dim=1, keepdim=True) for side in (predictions.double(), gold.double()))
    spread = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    constant = (predictions == predictions[:, :1]).all(dim=1) | (gold == gold[:, :1]).all(dim=1)
    return ((x * y).sum(dim=1) / spread.clamp(min=np.finfo(np.float64).tiny)).masked_fill(constant, 0.0)


def confusion_counts(predictions: Tensor, gold: Tensor, classes: int) -> Tensor:
    """Counts [R, C, C] by right and predicted class, of int64 [R, N]."""
    rows = len(predictions)
    cells = gold * classes + predictions + classes**2 * torch.arange(rows).unsqueeze(1)
    return torch.bincount(cells.flatten(), minlength=rows * classes**2).view(rows, classes, classes)


def _f1(predicted: Tensor, right: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) of bool [R, N]; 0 where nothing is predicted and nothing right."""
    both = 2 * (predicted & right).double().sum(dim=1)
    return both / (predicted.double().sum(dim=1) + right.double().sum(dim=1)).clamp(min=1)


def _f1_macro(counts: Tensor) -> Tensor:
    """Mean of the F1 of the classes that occur, among the right answers or the predictions."""
    occurrences = (counts.sum(dim=-1) + counts.sum(dim=-2)).double()  # [R, C]
    scores = 2 * counts.diagonal(dim1=-2, dim2=-1).double() / occurrences.clamp(min=1)
    return scores.sum(dim=-1) / (occurrences > 0).double().sum(dim=-1).clamp(min=1)
