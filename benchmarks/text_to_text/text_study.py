"""The study of the quality benchmark, with text-to-text models: whole models, no heads, answers ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extent import FULL, Extent
from prompted import PromptedTask, load_prompted
from scoring import Scorer
from study import Study
from text_models import own_folder, train_base, train_own
from workspace import Workspace

from mats.data import DatasetSpec, Example
from mats.progress import Progress

ROWS_IN_A_BATCH = 600
"""Answers that are ranked in one forward pass: those of few examples where each has 77."""


class RankingScorer(Scorer):
    """The tasks' examples with their answer choices; right is what ranks the right answer first."""

    kind = "text_to_text"

    def spec(self, task: PromptedTask, data: Path) -> DatasetSpec:
        """A task's dataset."""
        return load_prompted(task, data)

    def batch_size(self, examples: Sequence[Example]) -> int:
        """Examples whose answers are ranked in one forward pass."""
        return min(50, max(1, ROWS_IN_A_BATCH // len(examples[0].choices)))

    def head(self, task: PromptedTask) -> None:
        """There are no heads."""


class TextWorkspace(Workspace):
    """One seed on disk: whole models, no heads."""

    @property
    def base(self) -> Path:
        """What the models were fine-tuned from."""
        return self.home / "base"

    def model(self, task: PromptedTask) -> Path:
        """A task's own model."""
        return own_folder(self.home, task, self.seed)

    def spec(self, task: PromptedTask) -> DatasetSpec:
        """A task's dataset."""
        return load_prompted(task, self.data)

    def heads(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass
class TextStudy(Study):
    """Seeds of one extent.

    Attributes:
        extent: whose `tasks`, `sizes` and `rows` the study's are.
    """

    extent: Extent = field(default=FULL)

    def workspace(self, seed: int) -> TextWorkspace:
        """The files of one seed."""
        return TextWorkspace(self.home, self.data, self.track, seed, self.tasks, self.sizes.metadata)

    @property
    def base(self) -> Path:
        """What all models start from."""
        return self.home / "base"

    def train(self, progress: Progress) -> None:
        """The base, and every task's own model of every seed."""
        train_base(self.home, self.data, self.extent, progress)
        for seed in self.seeds:
            for task in self.tasks:
                train_own(self.home, self.data, task, seed, progress)

    def scorer(self, split: str) -> RankingScorer:
        """The examples of a split."""
        limit = self.sizes.tuning if split == "tuning" else self.sizes.test
        return RankingScorer(self.tasks, self.data, self.base, split, limit)
