"""Models of known shapes with random weights, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mats.data.batch import Batch, Task

SHORTEST = 0.75  # lengths of a batch run from this share of the longest to the longest, as batches by length do


@dataclass(frozen=True)
class Shape:
    """A model to measure.

    Attributes:
        build: Makes it.
        scale: What was made smaller than its namesake, in words.
        task: What its batches are.
        vocabulary: Number of ids.
        length: Tokens of the longest input.
        target_length: Tokens of the longest target of an encoder-decoder.
    """

    build: Callable[[], nn.Module]
    scale: str
    task: Task
    vocabulary: int
    length: int
    target_length: int = 0


def bert() -> nn.Module:
    return _encoder(vocab_size=8192, num_hidden_layers=4)


def minilm() -> nn.Module:
    return _encoder(vocab_size=30522, hidden_size=384, num_hidden_layers=6, intermediate_size=1536)


def _encoder(**shape: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=3, **shape))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=5376,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_heads=12,
        num_layers=2,
        num_decoder_layers=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    return T5ForConditionalGeneration(config)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


SHAPES = {
    "bert": Shape(bert, "BERT-base, 4 of 12 layers, vocabulary 8192", "text_classification", 8192, 128),
    "minilm": Shape(minilm, "MiniLM-L6, whole", "text_classification", 30522, 128),
    "t5": Shape(t5, "T5-base, 2 of 12 layers a side, a sixth of the vocabulary", "text_to_text", 5376, 128, 32),
    "llama": Shape(
        llama, "Llama-3-8B at a quarter of the width, 2 of 32 layers, vocabulary 4096", "language_modeling", 4096, 256
    ),
}


def batches_of(shape: Shape, examples: int, batch_size: int) -> list[Batch]:
    """The same `examples` examples in batches, each padded to its own longest, longest first."""
    generator = torch.Generator().manual_seed(0)
    rows = [_row(shape.vocabulary, shape.length, n, examples, generator) for n in range(examples)]
    targets = [_row(shape.vocabulary, max(shape.target_length, 1), n, examples, generator) for n in range(examples)]
    return [
        _batch(shape, range(first, min(first + batch_size, examples)), rows, targets)
        for first in range(0, examples, batch_size)
    ]


def _row(vocabulary: int, longest: int, number: int, examples: int, generator: torch.Generator) -> Tensor:
    share = 1 - (1 - SHORTEST) * number / max(examples - 1, 1)
    return torch.randint(2, vocabulary, (max(1, round(longest * share)),), generator=generator)


def _batch(shape: Shape, which: range, rows: list[Tensor], targets: list[Tensor]) -> Batch:
    names = tuple(f"example-{n}" for n in which)
    ids, mask = _padded([rows[n] for n in which], 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if shape.task == "text_classification":
        return Batch(inputs, names, shape.task, mask, None, torch.tensor([n % 3 for n in which]))
    if shape.task == "language_modeling":
        return Batch(inputs, names, shape.task, mask, None, ids.masked_fill(~mask, -100))
    labels, target_mask = _padded([targets[n] for n in which], -100)
    start = torch.zeros(len(which), 1, dtype=torch.int64)
    inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1].clamp(min=0)], 1)
    return Batch(inputs, names, shape.task, mask, target_mask, labels)


def _padded(rows: list[Tensor], value: int) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    values = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, row in enumerate(rows):
        values[n, : len(row)] = row
        mask[n, : len(row)] = True
    return values, mask
