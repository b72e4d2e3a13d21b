"""What a run of evaluation is asked for: how to score, and which models on which datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mats.data import DatasetSpec


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are scored.

    Attributes:
        split: Split of each dataset.
        batch_size: Examples in a forward pass; changes speed and memory, not the result.
        device: `cpu`, `cuda`, …
        limit: At most so many examples of each split; None: all.
        base: Checkpoint under adapters, and the place of the tokenizer where a model has none.
        dtype: Of the loaded weights; None: as stored.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        predictions: Folder for each example's prediction, `<model>/<dataset>-<split>.jsonl`; None: not written. What is
            there already from an identical request is not scored again.
        start: First row of each split, counted from 0.
        templates: See `choose_templates`; None: as each dataset file says.
    """

    split: str = "test"
    batch_size: int = 32
    device: str = "cpu"
    limit: int | None = None
    base: str | None = None
    dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    predictions: Path | None = None
    start: int = 0
    templates: str | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """`rows`, the first and one past the last, for file names; nothing where all rows are scored."""
        if self.start == 0 and self.limit is None:
            return ()
        return "rows", str(self.start), "end" if self.limit is None else str(self.start + self.limit)


@dataclass(frozen=True)
class EvaluationJob:
    """One model and what it is scored on.

    Attributes:
        name: What reports call it; unique in a run.
        path: The checkpoint.
        specs: Datasets, with unique names.
        heads: Dataset name → name of the head to put on the model for it, where the body was merged without.
        reference: Dataset name → name of the job that its score there is compared with.
    """

    name: str
    path: str
    specs: tuple[DatasetSpec, ...]
    heads: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, str] = field(default_factory=dict)
