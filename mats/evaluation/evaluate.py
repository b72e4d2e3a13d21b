"""Scoring one model on the batches of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mats.data import Batch
from mats.errors import DataError, InputsMismatch, NonFiniteStatistic
from mats.evaluation.metrics import compute_metrics
from mats.evaluation.result import EvaluationResult
from mats.evaluation.scoring import answer_scores, evaluating
from mats.progress import Progress, Silent


def evaluate(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    metrics: Sequence[str] = ("accuracy",),
    length_normalization: bool = False,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score a model: classification, or rank classification of the answer choices of a text-to-text model.

    The prediction is the class or choice with the highest score; among equals, the first. The result does not depend on
    batch size, order or padding, beyond rounding.

    Args:
        model: A model of transformers (or PEFT), on any device; its modes are as before afterwards.
        batches: What `mats.data.make_batches` returned.
        metrics: The first one is the result's `value`.
        length_normalization: Rank choices by mean token log-probability instead of the sum.
        progress: Told about each batch; the caller opens the stage.

    Raises:
        DataError: there are no batches.
        InputsMismatch: a label is beyond the classes that the model has.
        NonFiniteStatistic: a score is NaN or infinite; the message names the example.
        RequestError: the task cannot be scored, or a metric is unknown.
    """
    device = next(model.parameters()).device
    progress = progress or Silent()
    predictions: list[dict[str, Any]] = []
    classes = 0
    with evaluating(model):
        for batch in batches:
            scores = answer_scores(model, batch.to(device), length_normalization=length_normalization).cpu()
            gold = batch.gold if batch.gold is not None else batch.labels
            predictions += _predict(scores, gold.cpu(), batch)
            classes = max(classes, scores.shape[1])
            progress.advance()
    if not predictions:
        raise DataError("no batches to evaluate on; a split with examples would be right")
    values = compute_metrics(metrics, _column(predictions, "prediction"), _column(predictions, "gold"), classes)
    return EvaluationResult(metrics[0], values[metrics[0]], values, len(predictions), tuple(predictions))


def _predict(scores: Tensor, gold: Tensor, batch: Batch) -> list[dict[str, Any]]:
    """The predictions of one batch: scores [B, K], gold [B], both on the host."""
    finite = torch.isfinite(scores).all(dim=1)
    if not bool(finite.all()):
        example = batch.example_ids[int((~finite).nonzero()[0, 0])]
        raise NonFiniteStatistic(
            f"example {example}: the model's score is NaN or infinite; check the weights, or use float32"
        )
    if int(gold.max()) >= scores.shape[1]:
        example = batch.example_ids[int(gold.argmax())]
        raise InputsMismatch(f"example {example}: label {int(gold.max())}, but the model has {scores.shape[1]} classes")
    predicted = [
        row.index(max(row)) for row in scores.tolist()
    ]  # the first among equals, which argmax does not promise
    return [
        {"example_id": example_id, "prediction": prediction, "gold": right, "scores": row}
        for example_id, prediction, right, row in zip(
            batch.example_ids, predicted, gold.tolist(), scores.tolist(), strict=True
        )
    ]


def _column(predictions: Sequence[dict[str, Any]], name: str) -> Tensor:
    return torch.tensor([entry[name] for entry in predictions])
