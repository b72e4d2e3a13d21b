"""The negative log-likelihood of each example by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mats.curvature.settings import Loss
from mats.data.batch import Batch
from mats.errors import InputsMismatch, RequestError

IGNORED = -100
CLASSIFICATION = ("text_classification", "image_classification")
REGRESSION = ("text_regression",)


def model_logits(model: nn.Module, inputs: Mapping[str, Tensor], **extra: Any) -> Tensor:
    """Run `model` and return its logits; no key-value cache, which would only hold memory."""
    config = getattr(model, "config", None)
    if getattr(config, "use_cache", None):
        extra = {"use_cache": False, **extra}
    return logits_of(model(**inputs, **extra))


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned: a tensor, a tuple that starts with them, or an output with a field."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is None and isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise RequestError(f"the model returned {type(output).__name__} without logits; load it with a task head")
    return logits


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 or, where it is more precise, as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def scored_positions(batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels aligned position by position.

    Returns:
        Logits [B, R, V] and labels [B, R] with -100 where nothing is scored; R = 1 for classification. A language
        model's logits at t predict token t + 1, so its labels are shifted here.
    """
    if batch.task in CLASSIFICATION:
        return logits.unsqueeze(1), batch.labels.unsqueeze(1)
    if batch.task == "language_modeling":
        labels = batch.labels[:, 1:]
        if batch.input_mask is not None:
            # With padding on the left, the first real token would be predicted from a padding position.
            labels = labels.masked_fill(~batch.input_mask[:, :-1], IGNORED)
        return logits[:, :-1], labels
    return logits, batch.labels


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax over the last dimension, in float32 or better."""
    return at_least_float32(logits).log_softmax(-1)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) at each position [B, R]; 0 where the label is -100. In float32 or better."""
    return losses_given(log_probabilities(logits), labels)


def losses_given(known: Tensor, labels: Tensor) -> Tensor:
    """`token_losses` from log p [B, R, V], which several labels may share."""
    losses = functional.nll_loss(known.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.reshape(labels.shape)


def example_losses(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Per-example loss [B]: the sum over an example's scored positions, or their mean.

    No example's value depends on its neighbours, so the sum over a batch has each example's own gradient. An example
    with nothing scored has loss 0.
    """
    return next(losses_of_each(logits, [labels], loss))


def losses_of_each(logits: Tensor, drawn: Iterable[Tensor], loss: Loss) -> Iterator[Tensor]:
    """`example_losses` [B] for each of several labels [B, R]; their graphs share the log-probabilities [B, R, V]."""
    known = log_probabilities(logits)
    for labels in drawn:
        summed = losses_given(known, labels).sum(1)
        yield summed if loss == "sum" else summed / (labels != IGNORED).sum(1).clamp(min=1)


def regression_outputs(logits: Tensor) -> Tensor:
    """The number that a regression model tells of each example: logits [B, 1] → [B], in float32 or better.

    Raises:
        InputsMismatch: The head has another number of outputs.
    """
    if logits.dim() != 2 or logits.shape[1] != 1:
        raise InputsMismatch(f"the model returned logits of shape {list(logits.shape)}; a regression has one output")
    return at_least_float32(logits[:, 0])


def regression_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """½ (y − f)² [B]: minus the log-likelihood of a Gaussian around f of variance 1, but for its constant.

    Args:
        outputs: f [B].
        labels: y [B], floating point.
    """
    return 0.5 * (labels.to(outputs.dtype) - outputs).square()
