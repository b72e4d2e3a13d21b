"""One batch from a few examples, per task: tokenise, cut, pad, and keep the masks that tell padding from data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mats.data.batch import Batch
from mats.data.examples import Example
from mats.data.image_settings import ImageSettings
from mats.data.images import pixel_values
from mats.data.padding import NOT_SCORED, pad_rows, real_positions, shift_right
from mats.data.processors import Processor
from mats.data.spec import DatasetSpec
from mats.errors import DataError


def image_batch(examples: Sequence[Example], settings: ImageSettings) -> Batch:
    """Images [B, C, H, W] and classes; every position counts."""
    ids = _ids(examples)
    images = [example.image for example in examples if example.image is not None]
    inputs = {"pixel_values": pixel_values(images, settings, ids)}
    return Batch(inputs, ids, "image_classification", None, None, _labels(examples))


def text_batch(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> Batch:
    """Texts or pairs of texts, and classes (or numbers, float32, for text_regression)."""
    inputs, mask = _inputs(examples, spec, processor)
    labels = _labels(examples)
    if spec.task == "text_regression":
        labels = torch.tensor([example.label for example in examples], dtype=torch.float32)
    return Batch(inputs, _ids(examples), spec.task, mask, None, labels)


def text_to_text_batch(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> Batch:
    """Prompts, targets with the decoder's inputs, and the choices where the examples have them (all equally many)."""
    inputs, mask = _inputs(examples, spec, processor)
    targets = _tokenise_targets([example.target or "" for example in examples], spec, processor)
    for example, ids in zip(examples, targets, strict=True):
        if not ids:
            raise DataError(
                f"example {example.example_id}: target {example.target!r} has no tokens; nothing could be scored"
            )
    labels = pad_rows(targets, NOT_SCORED)
    inputs["decoder_input_ids"] = shift_right(labels, start_id=processor.decoder_start_id, pad_id=processor.pad_id)
    choices = gold = None
    if examples[0].choices:
        choices = _choice_tokens(examples, spec, processor)
        gold = _labels(examples)
    scored = labels != NOT_SCORED
    return Batch(inputs, _ids(examples), "text_to_text", mask, scored, labels, choices, gold, _answers(examples))


def language_modeling_batch(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> Batch:
    """Texts to continue. Labels are the input ids where scored: not at padding, not at the first token, which nothing
    predicts, and not in the prompt of an example with a target unless `score_prompt`.
    """
    parts = [_prompt_and_target(example, spec, processor) for example in examples]
    rows = [[*prompt, *target] for prompt, target in parts]
    scored_from = [
        max(1, len(prompt)) if example.target is not None and not spec.score_prompt else 1
        for example, (prompt, _) in zip(examples, parts, strict=True)
    ]
    for example, row, start in zip(examples, rows, scored_from, strict=True):
        if start >= len(row):
            raise DataError(f"example {example.example_id}: has no token to predict; a longer text would be right")
    side = spec.padding_side
    input_ids, mask = pad_rows(rows, processor.pad_id, side=side), real_positions(rows, side=side)
    labels = pad_rows(
        [[NOT_SCORED] * start + row[start:] for row, start in zip(rows, scored_from, strict=True)],
        NOT_SCORED,
        side=side,
    )
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    if side == "left":
        inputs["position_ids"] = _position_ids(mask)
    return Batch(inputs, _ids(examples), "language_modeling", mask, None, labels, answers=_answers(examples))


def prompt_batch(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> Batch:
    """Prompts for a decoder to continue: no target, nothing scored, padded on the left so that all end together."""
    settings = spec.generation
    room = spec.max_length if settings is None else max(1, spec.max_length - settings.max_new_tokens)
    rows = [_prompt_ids(example, processor, room) for example in examples]
    for example, row in zip(examples, rows, strict=True):
        if not row:
            raise DataError(f"example {example.example_id}: prompt {example.text!r} has no tokens; nothing to continue")
    mask = real_positions(rows, side="left")
    inputs = {
        "input_ids": pad_rows(rows, processor.pad_id, side="left"),
        "attention_mask": mask.long(),
        "position_ids": _position_ids(mask),
    }
    labels = torch.full_like(inputs["input_ids"], NOT_SCORED)
    return Batch(inputs, _ids(examples), "language_modeling", mask, None, labels, answers=_answers(examples))


def token_lengths(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> list[int]:
    """Input tokens of each example, as its batch will hold them; prompt and target together for language_modeling."""
    if spec.task == "language_modeling":
        return [sum(len(part) for part in _prompt_and_target(example, spec, processor)) for example in examples]
    pairs = [example.text_pair or "" for example in examples] if examples[0].text_pair is not None else None
    rows = _tokenise([example.text for example in examples], pairs, processor, spec.max_length)
    return [len(ids) for ids in rows["input_ids"]]


def _position_ids(mask: Tensor) -> Tensor:
    """Positions counted from the first real token."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _prompt_ids(example: Example, processor: Processor, room: int) -> list[int]:
    """The prompt's tokens, at most `room`: what is too long loses its beginning, but the begin token stays."""
    prompt: list[int] = processor.tokenizer([example.text], truncation=False)["input_ids"][0]
    processor.check_ids([prompt])
    kept = 1 if prompt[:1] == [processor.tokenizer.bos_token_id] and room > 1 else 0
    excess = max(0, len(prompt) - room)
    return [*prompt[:kept], *prompt[kept + excess :]]


def _answers(examples: Sequence[Example]) -> tuple[tuple[str, ...], ...] | None:
    """What would be right to write, where every example knows it."""
    return tuple(example.answers for example in examples) if all(example.answers for example in examples) else None


def _prompt_and_target(example: Example, spec: DatasetSpec, processor: Processor) -> tuple[list[int], list[int]]:
    """Token ids of both, together at most `max_length`: what is too long loses the prompt's beginning (but the begin
    token) before the target's end, for the words next to the target matter most.
    """
    if example.target is None:
        return _tokenise([example.text], None, processor, spec.max_length)["input_ids"][0], []
    tokenizer = processor.tokenizer
    prompt: list[int] = tokenizer([example.text], truncation=False)["input_ids"][0]
    target: list[int] = tokenizer([example.target], add_special_tokens=False, truncation=False)["input_ids"][0]
    processor.check_ids([prompt, target])
    kept = 1 if prompt[:1] == [tokenizer.bos_token_id] else 0
    target = target[: spec.max_length - max(1, kept)]
    excess = max(0, len(prompt) + len(target) - spec.max_length)
    return [*prompt[:kept], *prompt[kept + excess :]], target


def _ids(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(example.example_id for example in examples)


def _labels(examples: Sequence[Example]) -> Tensor:
    return torch.tensor([example.label for example in examples], dtype=torch.int64)


def _inputs(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> tuple[dict[str, Tensor], Tensor]:
    """Padded model inputs and their mask [B, T]. Padding is our own, so that it is where the mask says."""
    pairs = [example.text_pair for example in examples]
    texts = [example.text for example in examples]
    rows = _tokenise(
        texts, [pair or "" for pair in pairs] if pairs[0] is not None else None, processor, spec.max_length
    )
    for example, ids in zip(examples, rows["input_ids"], strict=True):
        if not ids:
            raise DataError(
                f"example {example.example_id}: text {example.text!r} has no tokens; a longer text would be right"
            )
    mask = real_positions(rows["input_ids"])
    inputs = {"input_ids": pad_rows(rows["input_ids"], processor.pad_id), "attention_mask": mask.long()}
    if "token_type_ids" in rows and "token_type_ids" in processor.tokenizer.model_input_names:
        inputs["token_type_ids"] = pad_rows(rows["token_type_ids"], 0)
    return inputs, mask


def _tokenise(
    texts: list[str], pairs: list[str] | None, processor: Processor, max_length: int
) -> dict[str, list[list[int]]]:
    """Token ids of each text or pair, cut to `max_length` (special tokens kept), unpadded."""
    encoded: Any = processor.tokenizer(texts, pairs, truncation=True, max_length=max_length, padding=False)
    processor.check_ids(encoded["input_ids"])
    return dict(encoded)


def _tokenise_targets(texts: list[str], spec: DatasetSpec, processor: Processor) -> list[list[int]]:
    longest = spec.max_target_length or spec.max_length
    encoded = processor.tokenizer(text_target=texts, truncation=True, max_length=longest, padding=False)
    ids: list[list[int]] = encoded["input_ids"]
    processor.check_ids(ids)
    return ids


def _choice_tokens(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> Tensor:
    """Int64 [B, K, T_c], -100 at padding."""
    texts = [choice for example in examples for choice in example.choices]
    rows = _tokenise_targets(texts, spec, processor)
    for index, ids in enumerate(rows):
        if not ids:
            example = examples[index // len(examples[0].choices)]
            raise DataError(
                f"example {example.example_id}: answer choice {texts[index]!r} has no tokens; nothing could be scored"
            )
    padded = pad_rows(rows, NOT_SCORED)
    return padded.view(len(examples), len(examples[0].choices), -1)
