"""Rank classification by causal language models: every choice appended to its prompt, and only its tokens scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mats.data import Batch, DatasetSpec, Example
from mats.evaluation.evaluate import choice_predictions
from mats.evaluation.scoring import evaluating, sequence_log_probability
from mats.progress import Progress


def causal_spec(spec: DatasetSpec) -> DatasetSpec:
    """A text_to_text dataset as a causal language model is shown it: text to go on with, padded on the right."""
    return spec.model_copy(update={"task": "language_modeling", "score_prompt": False, "padding_side": "right"})


def continuations_of(examples: Sequence[Example]) -> list[Example]:
    """One example per choice, whose target is the choice; a space parts it from a prompt that ends without one.

    (Models that read prompt and answer apart need no space between them, and prompts are written for those.)
    """
    return [
        replace(
            example,
            example_id=f"{example.example_id}#{number}",
            target=choice if _joined(example.text, choice) else f" {choice}",
            choices=(),
        )
        for example in examples
        for number, choice in enumerate(example.choices)
    ]


def score_continuations(
    model: nn.Module,
    batches: Sequence[Batch],
    examples: Sequence[Example],
    *,
    length_normalization: bool = False,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The predictions of a causal language model, in the order of `examples`.

    Args:
        model: A causal language model of transformers (or PEFT).
        batches: Of `continuations_of(examples)` under `causal_spec`, in any order.
        examples: With their choices, and the index of the right one as label.
        length_normalization: Rank choices by mean token log-probability instead of the sum.
        progress: Told about each batch.
    """
    device = next(model.parameters()).device
    scores: dict[str, float] = {}
    with evaluating(model):
        for batch in batches:
            values = continuation_scores(model, batch.to(device), length_normalization=length_normalization)
            scores.update(zip(batch.example_ids, values.tolist(), strict=True))
            progress.advance()
    predictions = []
    for example in examples:
        row = [scores[f"{example.example_id}#{number}"] for number in range(len(example.choices))]
        predictions += choice_predictions(torch.tensor([row]), torch.tensor([example.label]), [example.example_id])
    return predictions


def continuation_scores(model: nn.Module, batch: Batch, *, length_normalization: bool = False) -> Tensor:
    """Log-probability [B] of each row's scored tokens given what stands before them, in nats."""
    logits = model(**batch.inputs, use_cache=False).logits
    return sequence_log_probability(logits[:, :-1], batch.labels[:, 1:], length_normalization=length_normalization)


def _joined(prompt: str, choice: str) -> bool:
    return prompt[-1:].isspace() or choice[:1].isspace()
