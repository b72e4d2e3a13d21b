"""A few random examples for each kind of model: ragged texts, images, sounds."""

from __future__ import annotations

import torch
from torch import Tensor

from mats.data.batch import Batch

VOCABULARY = 23
CLASSES = 3


def lengths(count: int) -> list[int]:
    """Lengths of texts, from 3 to 8 tokens."""
    return [3 + (5 * n) % 6 for n in range(count)]


def _rows(count: int, seed: int, sizes: list[int], pad: int) -> tuple[Tensor, Tensor]:
    """Random ids padded on the right, and the mask of real positions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((count, max(sizes)), pad)
    mask = torch.zeros(count, max(sizes), dtype=torch.bool)
    for row, size in enumerate(sizes):
        ids[row, :size] = torch.randint(3, VOCABULARY - 1, (size,), generator=generator)
        mask[row, :size] = True
    return ids, mask


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"example-{number}" for number in range(count))


def text_classes(count: int) -> Batch:
    """Texts with a class each."""
    ids, mask = _rows(count, 1, lengths(count), 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return Batch(inputs, _names(count), "text_classification", mask, None, torch.arange(count) % CLASSES)


def text_pairs(count: int) -> Batch:
    """Texts with a class each, and segment ids."""
    batch = text_classes(count)
    segments = (batch.inputs["input_ids"] % 2) * batch.inputs["attention_mask"]
    return Batch({**batch.inputs, "token_type_ids": segments}, *_rest(batch))


def texts(count: int) -> Batch:
    """Texts whose every token is predicted from those before it."""
    ids, mask = _rows(count, 2, lengths(count), 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    labels = ids.masked_fill(~mask, -100)
    return Batch(inputs, _names(count), "language_modeling", mask, None, labels)


def questions(count: int) -> Batch:
    """Texts and what to answer to them."""
    ids, mask = _rows(count, 3, lengths(count), 0)
    target, target_mask = _rows(count, 4, [1 + (3 * n) % 5 for n in range(count)], 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": shifted(target)}
    labels = target.masked_fill(~target_mask, -100)
    return Batch(inputs, _names(count), "text_to_text", mask, target_mask, labels)


def shifted(target: Tensor) -> Tensor:
    """What the decoder reads: the start token, then the target without its last."""
    return torch.cat([torch.zeros(len(target), 1, dtype=torch.int64), target[:, :-1]], dim=1)


def images(count: int, size: int = 8) -> Batch:
    """Images with a class each."""
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    labels = torch.arange(count) % CLASSES
    return Batch({"pixel_values": pixels}, _names(count), "image_classification", None, None, labels)


def spectrograms(count: int) -> Batch:
    """Sounds as eight frequencies over twelve moments, and what was said."""
    target, target_mask = _rows(count, 6, [1 + (3 * n) % 5 for n in range(count)], 0)
    heard = torch.randn(count, 8, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    inputs = {"input_features": heard, "decoder_input_ids": shifted(target)}
    labels = target.masked_fill(~target_mask, -100)
    return Batch(inputs, _names(count), "text_to_text", None, target_mask, labels)


def sounds(count: int) -> Batch:
    """Sounds as sixty samples, with a class each."""
    heard = torch.randn(count, 60, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    labels = torch.arange(count) % CLASSES
    return Batch({"input_values": heard}, _names(count), "image_classification", None, None, labels)


def _rest(batch: Batch) -> tuple[tuple[str, ...], str, Tensor | None, Tensor | None, Tensor]:
    return batch.example_ids, batch.task, batch.input_mask, batch.target_mask, batch.labels
