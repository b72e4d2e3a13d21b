"""Prompts to answers: batches planned by length, finished ones kept at once, an unfinished run taken up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.checkpoints import load_model
from mats.checkpoints.locate import local_path, locate
from mats.data import Processor, load_processor
from mats.data.generation import GenerationSettings
from mats.errors import OutputExists, RequestError
from mats.evaluation.exports_decoding import (
    KeyedText,
    PromptTokens,
    length_limit,
    tokenise_prompt,
    write_after,
)
from mats.evaluation.exports_partial import PartialAnswers
from mats.evaluation.exports_prompts import special_tokens_wanted
from mats.evaluation.exports_rows import spec_for_tokenizer
from mats.evaluation.facts import ModelFacts, read_facts
from mats.files import explain_os_error
from mats.progress import Progress, Silent

LoadModel = Callable[..., nn.Module]


@dataclass(frozen=True)
class Writer:
    """The model that writes, and how it is loaded.

    Attributes:
        model: Checkpoint: a folder, an adapter, a weight file, or a hub id.
        base: Checkpoint under an adapter or a lone weight file, and the place of the tokenizer where `model` has none.
        batch_size: Prompts at once; changes speed and memory, not what is written (beyond rounding).
        device: `cpu`, `cuda`, …
        dtype: Of the weights; None: as stored.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        load: Loads the model.
    """

    model: str
    base: str | None = None
    batch_size: int = 8
    device: str = "cpu"
    dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    load: LoadModel = load_model

    def check(self) -> None:
        """Refuse what could not work, before anything is loaded.

        Raises:
            RequestError: the model or its base is not there, or the batch size is below 1.
        """
        if self.batch_size < 1:
            raise RequestError(f"batch_size {self.batch_size}; 1 or more would be right")
        for checkpoint in (self.model, self.base):
            if checkpoint is not None:
                local_path(checkpoint)

    def facts(self) -> ModelFacts:
        """Whether the model continues its input, and how many positions it has; read from its files."""
        return read_facts(Path(self.model).name, self.model, self.base)

    def processor(self) -> Processor:
        """The tokenizer of the model, or of its base."""
        processor = load_processor(self.model, spec_for_tokenizer("prompts"), fallback=self.base)
        assert processor is not None  # only images have none
        # Some tokenizers close the space before punctuation when they decode, which changes code.
        processor.tokenizer.clean_up_tokenization_spaces = False
        return processor

    def identity(self) -> dict[str, Any]:
        """What an unfinished run must agree with: the weight files, by name, size and time, and how they are used."""
        files = [
            [str(path), path.stat().st_size, path.stat().st_mtime_ns]
            for checkpoint in (self.model, self.base)
            if checkpoint is not None
            for path in locate(checkpoint).files
        ]
        return {
            "model": self.model,
            "base": self.base,
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
            "batch_size": self.batch_size,
            "weight_files": files,
        }


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Make the output's folder, and refuse an output that exists.

    Raises:
        OutputExists: it exists, and is not to be replaced.
        WorkFailed: its folder cannot be made.
    """
    if output.is_dir():
        raise OutputExists(f"{output}: is a folder; the name of a file would be right")
    if output.exists() and not overwrite:
        raise OutputExists(f"{output}: exists already; choose another output or pass --overwrite")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, output.parent) from error


def write_all(
    writer: Writer,
    processor: Processor,
    prompts: Sequence[tuple[str, str]],
    settings: GenerationSettings,
    wrapper: str,
    partial: PartialAnswers,
    progress: Progress | None = None,
) -> list[KeyedText]:
    """What the model writes after every prompt, in their order. The model is loaded only if something is left to do.

    Args:
        writer: The model.
        processor: Its tokenizer.
        prompts: (key, text) pairs; keys are unique.
        settings: How it writes.
        wrapper: How the prompts were made.
        partial: What is finished already, and where more is kept.
        progress: One step per prompt.

    Raises:
        MatsError: as `load_model`, `tokenise_prompt` and `write_after`.
    """
    progress = progress or Silent()
    facts = writer.facts()
    special = special_tokens_wanted(wrapper)
    tokens = [
        tokenise_prompt(key, text, processor, decoder_only=facts.decoder_only, special=special) for key, text in prompts
    ]
    length_limit(
        tokens, facts, settings.max_new_tokens
    )  # a prompt that is too long is found before the model is loaded
    batches = plan_batches(tokens, writer.batch_size)
    left = [batch for batch in batches if any(prompt.key not in partial.finished for prompt in batch)]
    count = sum(map(len, left))
    if left and count < len(prompts):
        progress.note(f"{len(prompts) - count} of {len(prompts)} answers are there from an unfinished run")
    if left:
        options: dict[str, Any] = {"base": writer.base, "device": writer.device, "dtype": writer.dtype}
        task = "language_modeling" if facts.decoder_only else "text_to_text"
        model = writer.load(writer.model, task, trust_remote_code=writer.trust_remote_code, **options)
        progress.start("answers", count)
    for batch in left:
        partial.add(write_after(model, processor, batch, settings, facts))
        progress.advance(len(batch))
    return [partial.finished[key] for key, _ in prompts]


def plan_batches(prompts: Sequence[PromptTokens], batch_size: int) -> list[list[PromptTokens]]:
    """Batches of prompts of like length, so that little is padding; the same ones in every run."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
