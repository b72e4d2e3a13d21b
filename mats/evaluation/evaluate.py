"""Scoring one model on the batches of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mats.data import Batch
from mats.errors import DataError, InputsMismatch, NonFiniteStatistic
from mats.evaluation.result import EvaluationResult, result_of
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
    """Score a model: classification, regression, or rank classification of a text-to-text model's answer choices.

    The prediction is the class or choice with the highest score; among equals, the first. The result does not depend on
    batch size, order or padding, beyond rounding. For written texts, perplexity, and causal language models on answer
    choices see `evaluate_dataset`, which also makes the batches.

    Args:
        model: A model of transformers (or PEFT), on any device; its modes are as before afterwards.
        batches: What `mats.data.make_batches` returned.
        metrics: The first one is the result's `value`.
        length_normalization: Rank choices by mean token log-probability instead of the sum.
        progress: Told about each batch; the caller opens the stage.

    Raises:
        DataError: there are no batches.
        InputsMismatch: a label is beyond the classes that the model has, or a regression's model has several outputs.
        NonFiniteStatistic: a score is NaN or infinite; the message names the example.
        RequestError: the task cannot be scored, or a metric is unknown.
    """
    device = next(model.parameters()).device
    progress = progress or Silent()
    predictions: list[dict[str, Any]] = []
    with evaluating(model):
        for batch in batches:
            scores = answer_scores(model, batch.to(device), length_normalization=length_normalization).cpu()
            gold = batch.gold if batch.gold is not None else batch.labels
            tell = number_predictions if batch.task == "text_regression" else choice_predictions
            predictions += tell(scores, gold.cpu(), batch.example_ids)
            progress.advance()
    if not predictions:
        raise DataError("no batches to evaluate on; a split with examples would be right")
    return result_of(metrics, predictions, len(predictions))


def choice_predictions(scores: Tensor, gold: Tensor, example_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The predictions of one batch: scores [B, K], gold [B], both on the host."""
    check_finite(scores, example_ids)
    if int(gold.max()) >= scores.shape[1]:
        example = example_ids[int(gold.argmax())]
        raise InputsMismatch(f"example {example}: label {int(gold.max())}, but the model has {scores.shape[1]} classes")
    rows = scores.tolist()
    predicted = [row.index(max(row)) for row in rows]  # the first among equals, which argmax does not promise
    return [
        {"example_id": example_id, "prediction": prediction, "gold": right, "scores": row}
        for example_id, prediction, right, row in zip(example_ids, predicted, gold.tolist(), rows, strict=True)
    ]


def number_predictions(scores: Tensor, gold: Tensor, example_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The predictions of one batch of a regression: scores [B, 1], gold [B], both on the host."""
    check_finite(scores, example_ids)
    if scores.shape[1] != 1:
        raise InputsMismatch(f"the model has {scores.shape[1]} outputs; a regression needs a head with one")
    return [
        {"example_id": example_id, "prediction": value, "gold": right}
        for example_id, value, right in zip(example_ids, scores[:, 0].tolist(), gold.tolist(), strict=True)
    ]


def check_finite(scores: Tensor, example_ids: Sequence[str]) -> None:
    """Refuse a score [B, K] that is no number.

    Raises:
        NonFiniteStatistic: naming the first example concerned.
    """
    finite = torch.isfinite(scores).all(dim=1)
    if not bool(finite.all()):
        example = example_ids[int((~finite).nonzero()[0, 0])]
        raise NonFiniteStatistic(
            f"example {example}: the model's score is NaN or infinite; check the weights, or use float32"
        )
