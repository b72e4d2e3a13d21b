"""The study of the quality benchmark, with text-to-text models: whole models, no heads, answers ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from extent import FULL, Extent
from majority import majority_outcomes
from metrics import outcome
from prompted import PromptedTask, load_prompted
from scoring import Scorer
from study import Study
from text_models import own_folder, train_base, train_own
from workspace import Workspace

from mats.checkpoints import load_model
from mats.data import load_examples, load_processor, make_batches
from mats.evaluation import evaluate
from mats.progress import Progress

ROWS_IN_A_BATCH = 600
"""Answers that are ranked in one forward pass: those of few examples where each has 77."""


class RankingScorer(Scorer):
    """The tasks' examples with their answer choices, tokenised once for all models."""

    def __init__(self, tasks: Sequence[PromptedTask], data: Path, base: Path, split: str, limit: int | None) -> None:
        self.tasks, self.split, self.limit = tuple(tasks), split, limit
        self.majority: dict[str, list[int]] = {}
        self._batches = {}
        for task in tasks:
            spec = load_prompted(task, data)
            examples = load_examples(spec, split, limit=limit)
            size = min(50, max(1, ROWS_IN_A_BATCH // len(examples[0].choices)))
            self._batches[task.name] = list(
                make_batches(examples, spec, load_processor(base, spec), size, by_length=True)
            )
            self.majority[task.name] = majority_outcomes(task, spec, examples)

    def correct(
        self,
        task: PromptedTask,
        model: Path,
        head: str | None,  # noqa: ARG002 - the scorer's signature
        base: Path,
        progress: Progress,
    ) -> list[int]:
        """1 for each example whose right answer the model ranks first, else 0, in the order of the file."""
        loaded = load_model(model, "text_to_text", base=base)
        batches = self._batches[task.name]
        progress.start(f"{model.name} on {task.name}", len(batches))
        result = evaluate(loaded, batches, progress=progress)
        found = {
            entry["example_id"]: outcome(task.metric, entry["gold"], entry["prediction"])
            for entry in result.predictions
        }
        return [found[name] for name in sorted(found, key=lambda name: int(name.rsplit(":", 1)[1]))]


class TextWorkspace(Workspace):
    """One seed on disk: whole models, no heads."""

    def model(self, task: PromptedTask) -> Path:
        """A task's own model."""
        return own_folder(self.home, task, self.seed)

    def write_recipe(self) -> None:
        """The datasets as files, and the recipe of all models."""
        datasets = self.home / "datasets"
        datasets.mkdir(parents=True, exist_ok=True)
        models = []
        for task in self.tasks:
            path = datasets / f"{task.name}.yaml"
            spec = load_prompted(task, self.data)
            content = spec.model_dump(mode="json", exclude_unset=True) | {"root": str(spec.root)}
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            models.append({"name": task.name, "path": str(self.model(task)), "data": str(path)})
        recipe = {
            "base": str(self.home / "base"),
            "models": models,
            "curvature": {
                "split": "validation",
                "examples": self.examples,
                "batch_size": 16,
                "store": str(self.folder / "metadata"),
            },
            "merge": {"method": "mats"},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


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
