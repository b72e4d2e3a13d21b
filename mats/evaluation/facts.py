"""What a checkpoint's configuration and headers tell, so that what does not fit is found before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.checkpoints import open_checkpoint
from mats.checkpoints.heads import class_count
from mats.data import DatasetSpec
from mats.data.head_check import TASKS_WITH_HEADS, check_outputs, head_outputs
from mats.errors import InputsMismatch, RequestError
from mats.evaluation.prepared import PreparedData


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without loading it.

    Attributes:
        name: What reports call it.
        classes: Outputs of its head, if it has one.
        decoder_only: Whether it continues its input, rather than answering from a decoder of its own.
        positions: Most tokens it can be shown, where its configuration says so.
    """

    name: str
    classes: int
    decoder_only: bool
    positions: int | None

    def task(self, spec: DatasetSpec) -> str:
        """What to load the model for: a text_to_text dataset is shown to a causal model as text to continue."""
        return "language_modeling" if spec.task == "text_to_text" and self.decoder_only else spec.task

    def reads_as_causal(self, spec: DatasetSpec) -> bool:
        """Whether the model, loaded for this dataset, is a causal language model."""
        return self.task(spec) == "language_modeling"


def read_facts(name: str, path: str | Path, base: str | None, head: str | None = None) -> ModelFacts:
    """Read headers and configurations; no tensor.

    Args:
        name: What reports call the model.
        path: The checkpoint.
        base: The one under an adapter.
        head: Name of the head to put on it, if any.

    Raises:
        RequestError: no checkpoint there, no such head, or weights without an architecture and no base under them.
        CheckpointCorrupt: a file is damaged.
    """
    with open_checkpoint(path, head=head) as checkpoint:
        own = class_count(checkpoint)
        config: Mapping[str, Any] | None = checkpoint.config
        if checkpoint.kind == "model" and config is not None:
            return _facts(name, config, head_outputs(config))
        below = base or (config or {}).get("base_model_name_or_path")
    if below is None:
        raise RequestError(f"{path}: weights without an architecture; name the model under them as base")
    with open_checkpoint(below) as checkpoint:
        config = checkpoint.config or {}
    return _facts(name, config, own if own is not None else head_outputs(config))


def _facts(name: str, config: Mapping[str, Any], classes: int) -> ModelFacts:
    decoder_only = not config.get("is_encoder_decoder", False)
    # T5 calls its training length n_positions, but its positions are relative.
    positions = config.get("max_position_embeddings") or (config.get("n_positions") if decoder_only else None)
    return ModelFacts(name, classes, decoder_only, int(positions) if positions else None)


def check_head(facts: ModelFacts, spec: DatasetSpec) -> None:
    """Scores of a head made for other classes would be a number without meaning.

    Raises:
        DataError: the dataset has labels beyond the head.
        InputsMismatch: the head has more classes than the dataset.
    """
    check_outputs(spec, facts.classes, f"model {facts.name}")
    if spec.task in TASKS_WITH_HEADS and facts.classes > (spec.num_labels or 0):
        raise InputsMismatch(
            f"model {facts.name} has {facts.classes} classes, dataset {spec.name} has {spec.num_labels}"
        )


def check_length(facts: ModelFacts, data: PreparedData) -> None:
    """Tokens beyond a model's positions would end in an index error deep inside it.

    Raises:
        RequestError: a prompt with its answer, or a window, is too long.
    """
    if facts.positions is None or data.longest <= facts.positions:
        return
    if data.kind == "tokens":
        advice = "perplexity.window"
    elif data.kind == "texts" and data.decoder_only:
        advice = "max_length (prompt and generation.max_new_tokens together)"
    else:
        advice = "max_length"
    raise RequestError(
        f"dataset {data.spec.name}: {data.longest} tokens, but model {facts.name} has {facts.positions} positions;"
        f" {advice} of at most {facts.positions} would be right"
    )
