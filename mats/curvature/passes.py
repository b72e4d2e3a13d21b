"""Which forward and backward passes give a batch its curvature.

`empirical` and `sampled` labels take one forward and one backward. Several draws of sampled labels share the forward
and count as their mean; over answer choices each draw takes its own, since the choice is what the decoder reads.
`exact` labels are an expectation: over classes, one forward shared by one backward per class; over answer choices, one
forward and backward per choice. The pass of a label with probability p has its loss scaled by √p, so that products of
gradients carry p, and its input rows count p times.

A regression has the likelihood of a Gaussian around its output f with variance 1, so the gradient of an example is
(f − y) ∂f. With `exact` labels E (f − y)² = 1: one backward of f itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mats.curvature.labels import draw, draw_labels, normals, uniforms
from mats.curvature.losses import (
    CLASSIFICATION,
    IGNORED,
    REGRESSION,
    example_losses,
    log_probabilities,
    logits_of,
    losses_of_each,
    model_logits,
    regression_losses,
    regression_outputs,
    scored_positions,
    token_losses,
)
from mats.curvature.settings import CollectionSettings
from mats.data.batch import Batch
from mats.errors import DataError, RequestError

GAUSSIAN_KURTOSIS = 3.0  # E z⁴ of z ~ N(0, 1)


@dataclass(frozen=True)
class Term:
    """One backward pass.

    Attributes:
        losses: Per-example losses [B], already scaled by √weights.
        weights: [B]; None: all 1.
        kurtosis: E r⁴ where gradients stand for r times themselves, r random with E r² = 1; 1 where nothing is.
    """

    losses: Tensor
    weights: Tensor | None = None
    kurtosis: float = 1.0


@dataclass(frozen=True)
class Pass:
    """One forward pass: what the model reads, how much its input rows count, and the terms to run backwards."""

    batch: Batch
    weights: Tensor | None
    terms: Callable[[Tensor], Iterator[Term]]


def passes(model: nn.Module, batch: Batch, settings: CollectionSettings) -> Iterator[Pass]:
    """The passes of one batch, lazily.

    Raises:
        RequestError: `exact` labels where there are no classes or choices, or too many.
    """
    if settings.labels != "empirical" and batch.choices is not None and batch.task == "text_to_text":
        yield from _choice_passes(model, batch, settings)
    elif batch.task in REGRESSION:
        yield Pass(batch, None, lambda logits: _regression_term(batch, logits, settings))
    elif settings.labels == "exact":
        yield _every_class(model, batch, settings)
    else:
        yield Pass(batch, None, lambda logits: _single_term(batch, logits, settings))


def _single_term(batch: Batch, logits: Tensor, settings: CollectionSettings) -> Iterator[Term]:
    """The loss of the data's labels, or of labels drawn from `logits`, once or several times."""
    aligned, labels = scored_positions(batch, logits)
    if settings.labels != "sampled":
        yield Term(example_losses(aligned, labels, settings.loss))
        return
    drawn = (
        draw_labels(aligned, labels, settings.seed, batch.example_ids, repetition)
        for repetition in range(settings.draws)
    )
    for losses in losses_of_each(aligned, drawn, settings.loss):
        yield _one_of(settings.draws, losses)


def _regression_term(batch: Batch, logits: Tensor, settings: CollectionSettings) -> Iterator[Term]:
    """The loss of the data's numbers, of numbers drawn around the outputs, or the outputs themselves (`exact`)."""
    outputs = regression_outputs(logits)
    if settings.labels == "exact":
        yield Term(outputs, kurtosis=GAUSSIAN_KURTOSIS)
        return
    if settings.labels != "sampled":
        yield Term(regression_losses(outputs, batch.labels))
        return
    for repetition in range(settings.draws):
        noise = normals(settings.seed, batch.example_ids, repetition).to(outputs.device, outputs.dtype)
        yield _one_of(settings.draws, regression_losses(outputs, outputs.detach() + noise))


def _every_class(model: nn.Module, batch: Batch, settings: CollectionSettings) -> Pass:
    """One forward, a term per class."""
    if batch.task not in CLASSIFICATION:
        raise RequestError(f"labels: 'exact' needs classes or answer choices, got task {batch.task}; use 'sampled'")
    config = getattr(model, "config", None)
    classes = int(getattr(config, "num_labels", 0) or 0)
    if classes > settings.exact_limit:
        raise _too_many("classes", classes, settings)

    def terms(logits: Tensor) -> Iterator[Term]:
        if logits.shape[-1] > settings.exact_limit:
            raise _too_many("classes", int(logits.shape[-1]), settings)
        known = log_probabilities(logits)
        weights = known.detach().exp()
        for index in range(logits.shape[-1]):
            yield _weighted(-known[:, index], weights[:, index])

    return Pass(batch, None, terms)


def _too_many(what: str, count: int, settings: CollectionSettings) -> RequestError:
    return RequestError(
        f"labels: 'exact' over {count} {what}; at most exact_limit = {settings.exact_limit}, use 'sampled'"
    )


def _one_of(draws: int, losses: Tensor) -> Term:
    """The term of one of several draws, whose mean is measured."""
    return Term(losses) if draws == 1 else _weighted(losses, torch.full_like(losses, 1 / draws, dtype=torch.float64))


def _weighted(losses: Tensor, weights: Tensor) -> Term:
    """Scale by √p; where p is 0 the loss may be infinite, and the gradient must still be 0."""
    positive = weights > 0
    scaled = torch.where(positive, losses, torch.zeros_like(losses)) * weights.sqrt().to(losses.dtype)
    return Term(scaled, weights)


def _choice_passes(model: nn.Module, batch: Batch, settings: CollectionSettings) -> Iterator[Pass]:
    """Answer choices: drawn, once or several times, or each in turn with its probability."""
    assert batch.choices is not None
    scores = choice_log_probabilities(model, batch)
    if settings.labels == "sampled":
        share = None if settings.draws == 1 else scores.new_full((batch.size,), 1 / settings.draws)
        for repetition in range(settings.draws):
            uniform = uniforms(settings.seed, batch.example_ids, 1, repetition)[:, 0].to(scores.device)
            yield _choice_pass(model, batch, draw(scores, uniform), share, settings)
        return
    count = batch.choices.shape[1]
    if count > settings.exact_limit:
        raise _too_many("choices", count, settings)
    probabilities = scores.softmax(-1)
    for index in range(count):
        chosen = torch.full((batch.size,), index, dtype=torch.int64, device=scores.device)
        yield _choice_pass(model, batch, chosen, probabilities[:, index], settings)


def _choice_pass(
    model: nn.Module, batch: Batch, chosen: Tensor, weights: Tensor | None, settings: CollectionSettings
) -> Pass:
    """Score choice `chosen[n]` of each example n."""
    answered = with_choice(model, batch, chosen)

    def terms(logits: Tensor) -> Iterator[Term]:
        losses = example_losses(*scored_positions(answered, logits), settings.loss)
        yield Term(losses) if weights is None else _weighted(losses, weights)

    return Pass(answered, weights, terms)


def with_choice(model: nn.Module, batch: Batch, chosen: Tensor) -> Batch:
    """The same examples with one answer choice each as the target, decoder inputs included.

    Args:
        model: Gives the padding id of its configuration.
        batch: With choices [B, K, T_c].
        chosen: int64 [B].
    """
    assert batch.choices is not None
    labels = batch.choices[torch.arange(batch.size, device=chosen.device), chosen]
    real = labels != IGNORED
    inputs = dict(batch.inputs)
    if "decoder_input_ids" not in inputs:
        raise DataError(
            f"example {batch.example_ids[0]}: answer choices without decoder_input_ids; the start token is unknown"
        )
    start = inputs["decoder_input_ids"][:, :1]
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    tokens = torch.where(real, labels, torch.full_like(labels, 0 if pad is None else int(pad)))
    inputs["decoder_input_ids"] = torch.cat([start, tokens[:, :-1]], dim=1)
    if "decoder_attention_mask" in inputs:
        inputs["decoder_attention_mask"] = real.to(inputs["decoder_attention_mask"].dtype)
    return replace(batch, inputs=inputs, labels=labels, target_mask=real)


def choice_log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Summed log-probability of each answer choice [B, K] in float64; -inf where an example has fewer choices.

    The softmax over these sums is taken by shifting to their maximum, so long answers do not underflow. The encoder
    runs once and serves every choice.
    """
    assert batch.choices is not None
    columns: list[Tensor] = []
    encoded: dict[str, Any] = {}
    with torch.no_grad():
        for index in range(batch.choices.shape[1]):
            chosen = torch.full((batch.size,), index, dtype=torch.int64, device=batch.choices.device)
            answered = with_choice(model, batch, chosen)
            logits, encoded = _reusing_encoder(model, answered, encoded)
            summed = -token_losses(logits, answered.labels).double().sum(1)
            empty = (answered.labels == IGNORED).all(1)
            columns.append(summed.masked_fill(empty, -torch.inf))
    return torch.stack(columns, dim=1)


def _reusing_encoder(model: nn.Module, batch: Batch, encoded: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Logits, and the encoder's output for the next call where the model reports one."""
    if encoded:
        return model_logits(model, batch.inputs, **encoded), encoded
    output = model(**batch.inputs)
    hidden = getattr(output, "encoder_last_hidden_state", None)
    return logits_of(output), {} if hidden is None else {"encoder_outputs": (hidden,)}
