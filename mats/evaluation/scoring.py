"""Scores of the possible answers to each example of a batch: class logits, or log-probabilities of answer choices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mats.data import NOT_SCORED, Batch, shift_right
from mats.errors import RequestError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off and no graph inside; every module's own mode restored afterwards, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def answer_scores(model: nn.Module, batch: Batch, *, length_normalization: bool = False) -> Tensor:
    """Scores [B, K] of the classes or answer choices, float32, the highest the prediction; of a regression its output.

    Raises:
        RequestError: the examples have neither classes nor choices nor a number.
    """
    if batch.task in ("text_classification", "text_regression", "image_classification"):
        logits: Tensor = model(**batch.inputs).logits
        return logits.float()
    if batch.choices is None:
        raise RequestError(
            f"{batch.task} without answer choices cannot be scored batch by batch; "
            "mats.evaluation.evaluate_dataset writes texts and tells perplexities"
        )
    return choice_scores(model, batch, length_normalization=length_normalization)


def choice_scores(model: nn.Module, batch: Batch, *, length_normalization: bool = False) -> Tensor:
    """Log-probability [B, K] of each answer choice given the prompt: Σ_t log p(choice_t | prompt, choice_<t), in nats.

    The encoder runs once per example; its output is repeated for the K choices of the example.

    Args:
        model: An encoder–decoder model of transformers.
        batch: Examples with `choices` [B, K, T_c].
        length_normalization: Mean over the choice's tokens instead of their sum.
    """
    assert batch.choices is not None
    count, width = batch.choices.shape[1:]
    encode: Any = getattr(model, "get_encoder")()  # noqa: B009 - nn.Module's type does not know it
    mask = batch.inputs["attention_mask"]
    encoder_inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_input_ids"}
    encoded = encode(**encoder_inputs, return_dict=True)
    encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(count, dim=0)  # [B·K, T_in, d]

    labels = batch.choices.reshape(-1, width)  # [B·K, T_c]
    # The padding id is of no effect: it stands only behind a choice's last token, where the decoder cannot look from.
    start = int(batch.inputs["decoder_input_ids"][0, 0])
    decoder_inputs = shift_right(labels, start_id=start, pad_id=start)
    outputs = model(
        encoder_outputs=encoded,
        attention_mask=mask.repeat_interleave(count, dim=0),
        decoder_input_ids=decoder_inputs,
        use_cache=False,
    )
    return sequence_log_probability(outputs.logits, labels, length_normalization=length_normalization).view(-1, count)


def sequence_log_probability(logits: Tensor, labels: Tensor, *, length_normalization: bool = False) -> Tensor:
    """Log-probability [N] of each row of labels, summed (or averaged) over its tokens in float32.

    Args:
        logits: [N, T, V], aligned with the labels.
        labels: int64 [N, T], -100 at padding, which does not count.
        length_normalization: Mean over the row's tokens instead of their sum.
    """
    logits = logits.float()
    scored = labels != NOT_SCORED
    chosen = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)  # [N, T]
    total = chosen.masked_fill(~scored, 0.0).sum(dim=-1)
    return total / scored.sum(dim=-1).clamp(min=1) if length_normalization else total
