"""The quality benchmark's six encoder models of one seed, merged from other stores than their own, and scored.

Reads what `python benchmarks/quality` has made (models, recipe, stores) and writes to a scratch folder alone. Scores
are on the split `tuning`: training examples that no model was trained on and no store was measured on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent / "quality"))

import encoder
import torch
from scoring import Scorer, accuracy, normalised
from tasks import TASK_SETS
from transformers.utils import logging

from mats.checkpoints import open_checkpoint
from mats.engine import merge
from mats.progress import Silent
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request, metadata_folder
from mats.store import open_store, write_store
from mats.store.tensor_file import Encoded


class EncoderMerges:
    """Merges of one seed's models.

    Attributes:
        home: of the quality benchmark's task set.
        scratch: where merges and stores go.
        base: the pretrained encoder.
        tasks: what is merged.
        scorer: the tuning examples.
    """

    def __init__(self, home: Path, data: Path, scratch: Path, seed: int, examples: int) -> None:
        encoder.register()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.home, self.scratch = home, scratch
        self.base = home / "base"
        self.tasks = TASK_SETS["first"]
        self.scorer = Scorer(self.tasks, data, self.base, "tuning", examples)
        self._recipe = home / "runs" / "full" / f"seed-{seed}" / "recipe.yaml"
        self._models = home / "models" / "full" / f"seed-{seed}"
        self._own: dict[str, list[int]] | None = None

    def model(self, task: str) -> Path:
        """A task's own model."""
        return self._models / task

    def stores(self, overrides: Sequence[str] = ()) -> dict[str, Path]:
        """Task → the store that was measured with these settings."""
        recipe = load_recipe(self._recipe, list(overrides))
        return {model.name: metadata_folder(recipe, model) for model in recipe.models}

    def part_of(self, stores: Mapping[str, Path], layers: Sequence[int], name: str = "parts") -> dict[str, Path]:
        """Copies, in `scratch`/`name`, with the sums of some encoder layers alone: all else keeps the start."""
        copies = {}
        for task, folder in stores.items():
            store, copies[task] = open_store(folder), self.scratch / name / task
            chosen = tuple(f"bert.encoder.layer.{layer}." for layer in layers)
            entries = {key: e for key, e in store.entries.items() if key.partition("/")[2].startswith(chosen)}
            manifest = replace(store.manifest, tensors={}, files={})
            write_store(copies[task], manifest, _Part(entries, store.read), {}, overwrite=True)
        return copies

    def merge(self, name: str, overrides: Sequence[str], stores: Mapping[str, Path] | None = None) -> Path:
        """Merge into `scratch`/merged/`name`."""
        output = self.scratch / "merged" / name
        shutil.rmtree(output, ignore_errors=True)
        chosen = [f"models.{task}.metadata={folder}" for task, folder in (stores or {}).items()]
        merge(merge_request(load_recipe(self._recipe, [*overrides, *chosen]), output), Silent())
        return output

    def share(self, merged: Path) -> tuple[float, dict[str, float]]:
        """Mean over tasks of the accuracy ÷ that of the task's own model, and each task's accuracy."""
        if self._own is None:
            self._own = {
                task.name: self.scorer.correct(task, self.model(task.name), None, self.base, Silent())
                for task in self.tasks
            }
        correct = self.scorer.merged(merged, self.base, Silent())
        return normalised(correct, self._own), {task: accuracy(answers) for task, answers in correct.items()}

    def machine(self) -> str:
        """What this runs on, in words."""
        threads = torch.get_num_threads()
        used = f"{threads} thread{'s' if threads > 1 else ''}"
        return f"{os.cpu_count()} cores, {platform.machine()}, {used}, torch {torch.__version__}"


@dataclass(frozen=True)
class _Part:
    """Some sums of a store."""

    entries: Mapping[str, Encoded]
    read: Callable[[str], torch.Tensor]


def rows_so_far(results: Path, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a stopped run of the same setting has measured: its rows are not measured again."""
    if not results.is_file():
        return []
    content = json.loads(results.read_text(encoding="utf-8"))
    return content["rows"] if all(content.get(key) == value for key, value in setting.items()) else []


def relative_change(merged: Path, exact: Path, start: Path, names: Sequence[str]) -> float:
    """‖W' − W‖ ÷ ‖W − x0‖ over the tensors `names`, all of them as one vector, in float64."""
    changed = moved = 0.0
    with open_checkpoint(merged) as ours, open_checkpoint(exact) as theirs, open_checkpoint(start) as before:
        for name in names:
            weight = theirs.read(name).double()
            changed += float((ours.read(name).double() - weight).square().sum())
            moved += float((weight - before.read(name).double()).square().sum())
    return (changed / moved) ** 0.5


def solved_names(report: Mapping[str, Any]) -> list[str]:
    """The tensors that a merge has solved a system for, biases that were solved with their weight among them."""
    rules = ("kfac", "input_gram", "block", "diagonal")
    solved = [layer for layer in report["layers"] if layer["rule"] in rules]
    return [name for layer in solved for name in (layer["name"], layer.get("bias")) if name is not None]
