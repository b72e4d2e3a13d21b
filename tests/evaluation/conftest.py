"""Tiny random models in float64, and batches of random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mats.data import NOT_SCORED, Batch, pad_rows, real_positions, shift_right

VOCABULARY = 40


@pytest.fixture
def t5(device: str) -> Any:
    """Encoder–decoder; weights large enough for its scores to spread."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.3,
        initializer_factor=2.0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).to(device, torch.float64).train()


@pytest.fixture
def bert(device: str) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=4,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).to(device, torch.float64)


@pytest.fixture
def vit(device: str) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(3)
    config = ViTConfig(
        image_size=4,
        patch_size=2,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        initializer_range=0.5,
    )
    return ViTForImageClassification(config).to(device, torch.float64)


@pytest.fixture
def prompts() -> list[list[int]]:
    """Eleven prompts of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 10, (11,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def choices() -> list[list[list[int]]]:
    """Three answer choices of 1 to 5 tokens for each prompt."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 6, (11, 3), generator=generator).tolist()
    return [[torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in row] for row in lengths]


def text_inputs(rows: Sequence[Sequence[int]], extra: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Padded ids and mask, with `extra` columns of padding beyond what is needed. The padding is an ordinary token, so
    that a model which looks at it answers otherwise."""
    wider = [*rows, [0] * (max(map(len, rows)) + extra)]
    mask = real_positions(wider)[:-1]
    return {"input_ids": pad_rows(wider, 7)[:-1], "attention_mask": mask.long()}, mask


def classification_batches(rows: list[list[int]], labels: list[int], size: int, extra: int = 0) -> list[Batch]:
    batches = []
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        inputs, mask = text_inputs(rows[part], extra)
        ids = tuple(f"test:{n}" for n in range(start, start + len(rows[part])))
        batches.append(Batch(inputs, ids, "text_classification", mask, None, torch.tensor(labels[part])))
    return batches


def ranked_batches(
    rows: list[list[int]], choices: list[list[list[int]]], gold: list[int], size: int, extra: int = 0
) -> list[Batch]:
    batches = []
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        inputs, mask = text_inputs(rows[part], extra)
        labels = pad_rows(
            [options[right] for options, right in zip(choices[part], gold[part], strict=True)], NOT_SCORED
        )
        inputs["decoder_input_ids"] = shift_right(labels, start_id=0, pad_id=0)
        flat = pad_rows([*(option for options in choices[part] for option in options), [0] * (5 + extra)], NOT_SCORED)
        padded = flat[:-1].view(len(rows[part]), -1, 5 + extra)
        ids = tuple(f"test:{n}" for n in range(start, start + len(rows[part])))
        right = torch.tensor(gold[part])
        batches.append(Batch(inputs, ids, "text_to_text", mask, labels != NOT_SCORED, labels, padded, right))
    return batches


@pytest.fixture
def make_classification() -> Any:
    return classification_batches


@pytest.fixture
def make_ranked() -> Any:
    return ranked_batches
