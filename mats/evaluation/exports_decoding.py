"""Prompts that are given as texts, put in batches before a model that writes (`mats.evaluation.generation`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from mats.data import Processor, pad_rows, real_positions
from mats.data.generation import GenerationSettings
from mats.errors import RequestError
from mats.evaluation.facts import ModelFacts
from mats.evaluation.generation import write_rows
from mats.evaluation.scoring import evaluating


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the model takes it.

    Attributes:
        key: Unique among those of a run; draws depend on it.
        ids: Token ids, at least one.
    """

    key: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class KeyedText:
    """What the model wrote after the prompt of this key; `finished` unless the length limit cut it."""

    key: str
    text: str
    finished: bool


def generation_settings(**values: Any) -> GenerationSettings:
    """Settings from values given one by one, None meaning the default.

    Raises:
        RequestError: a value out of its range, or several that do not go together; all of them on one line.
    """
    from pydantic import ValidationError

    try:
        return GenerationSettings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc']))} {fault['input']!r}: {fault['msg']}"
            if fault["loc"]
            else str(fault["msg"]).removeprefix("Value error, ")
            for fault in error.errors()
        )
        raise RequestError("; ".join(faults)) from error


def tokenise_prompt(key: str, text: str, processor: Processor, *, decoder_only: bool, special: bool) -> PromptTokens:
    """Token ids of a prompt. An end token that a tokenizer appends is left out where the model is to continue.

    Args:
        key: The prompt's.
        text: The prompt.
        processor: Of the model.
        decoder_only: Whether the model continues its input.
        special: Whether the tokenizer adds its special tokens (a chat template has written them).

    Raises:
        RequestError: the prompt has no tokens.
        InputsMismatch: the tokenizer makes an id that the model does not have.
    """
    tokenizer = processor.tokenizer
    ids: list[int] = list(tokenizer(text, add_special_tokens=special, truncation=False)["input_ids"])
    if decoder_only and special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    if not ids:
        raise RequestError(f"prompt {key} {text!r}: has no tokens; a longer text would be right")
    processor.check_ids([ids], f"prompt {key}: ")
    return PromptTokens(key, tuple(ids))


def length_limit(prompts: Sequence[PromptTokens], facts: ModelFacts, wanted: int) -> int:
    """New tokens that fit into the model's positions, behind the longest prompt or in the decoder alone.

    Raises:
        RequestError: a prompt leaves no room.
    """
    if facts.positions is None:
        return wanted
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    room = facts.positions - (len(longest.ids) if facts.decoder_only else 1)
    if room < 1 or len(longest.ids) > facts.positions:
        raise RequestError(
            f"prompt {longest.key}: {len(longest.ids)} tokens, but model {facts.name} has {facts.positions} positions"
            " for prompt and answer; a shorter prompt would be right"
        )
    return min(wanted, room)


def write_after(
    model: nn.Module,
    processor: Processor,
    prompts: Sequence[PromptTokens],
    settings: GenerationSettings,
    facts: ModelFacts,
) -> list[KeyedText]:
    """What the model writes after each prompt of one batch: the same in any batch, beyond rounding.

    Where the model has a limit of positions, the longest prompt of the batch bounds the length of all its answers.

    Raises:
        RequestError: a prompt leaves no room for an answer.
    """
    side = "left" if facts.decoder_only else "right"
    device = next(model.parameters()).device
    rows = [prompt.ids for prompt in prompts]
    inputs = {
        "input_ids": pad_rows(rows, processor.pad_id, side=side).to(device),
        "attention_mask": real_positions(rows, side=side).long().to(device),
    }
    keys = [prompt.key for prompt in prompts]
    limit = length_limit(prompts, facts, settings.max_new_tokens)
    with evaluating(model):
        written = write_rows(model, inputs, keys, processor, settings.model_copy(update={"max_new_tokens": limit}))
    return [KeyedText(key, **asdict(row)) for key, row in zip(keys, written, strict=True)]
