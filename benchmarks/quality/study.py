"""All seeds of one track: train, measure, merge every row, choose where there is a choice, read the test split once."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from individuals import base_folder, train_individual, train_jointly
from intervals import difference, share_interval
from rows import FISHER_CURVATURE, ROWS, Row
from scoring import Scorer, accuracy, normalised
from tasks import Task
from workspace import Workspace, remembered

import mats
from mats.files import write_json_atomically
from mats.progress import Progress

TUNING_EXAMPLES = 300
Correct = dict[str, list[int]]


@dataclass
class Study:
    """A task set, a way of fine-tuning, and seeds.

    Attributes:
        home: where everything is kept.
        data: folder of the tasks.
        track: full, lora or ia3.
        seeds: of the individual models.
        tasks: what is merged.
        training_examples: in place of each task's own number.
        scored_examples: at most so many of each test split.
        rows: the merges of the table.
    """

    home: Path
    data: Path
    track: str
    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    training_examples: int | None = None
    scored_examples: int | None = None
    rows: tuple[Row, ...] = ROWS

    def workspace(self, seed: int) -> Workspace:
        """The files of one seed."""
        return Workspace(self.home, self.data, self.track, seed, self.tasks)

    @property
    def base(self) -> Path:
        """The pretrained encoder."""
        return base_folder(self.home)

    def train(self, progress: Progress) -> None:
        """Every task's own model of every seed."""
        for seed in self.seeds:
            for task in self.tasks:
                train_individual(self.home, self.data, self.track, task, seed, progress, self.training_examples)

    def scorer(self, split: str) -> Scorer:
        """The examples of a split."""
        limit = TUNING_EXAMPLES if split == "tuning" else self.scored_examples
        return Scorer(self.tasks, self.data, self.base, split, limit)

    def prepare(self, progress: Progress) -> None:
        """What every merge needs: the individual models, the recipe of each seed, and the metadata."""
        self.train(progress)
        for seed in self.seeds:
            space = self.workspace(seed)
            space.write_recipe()
            space.measure((), progress)

    def individual(self, seed: int, scorer: Scorer, progress: Progress) -> Correct:
        """Each task's own model on its own task."""
        space = self.workspace(seed)
        return self._alone("individual", seed, scorer, progress, lambda: {t.name: space.model(t) for t in self.tasks})

    def joint(self, seed: int, scorer: Scorer, progress: Progress) -> Correct:
        """The model trained on all tasks at once."""
        return self._alone(
            "joint",
            seed,
            scorer,
            progress,
            lambda: train_jointly(self.home, self.data, self.tasks, seed, progress, self.training_examples),
        )

    def _alone(
        self, kind: str, seed: int, scorer: Scorer, progress: Progress, folders: Callable[[], dict[str, Path]]
    ) -> Correct:
        """Whole models, each with a head of its own, on their own tasks."""

        def answers() -> Correct:
            found = folders()
            return {t.name: scorer.correct(t, found[t.name], None, self.base, progress) for t in self.tasks}

        path = self.workspace(seed).folder / "scores" / f"{kind}-{scorer.split}.json"
        return remembered(path, {"limit": scorer.limit}, answers)

    def score(
        self, seed: int, overrides: Sequence[str], scorer: Scorer, progress: Progress, *, refresh: int = 0
    ) -> dict[str, Any]:
        """One merge on one split: `correct` answers, and the `seconds` and `peak_bytes` of the merge."""
        space = self.workspace(seed)
        named = [part for part in overrides if not part.startswith("curvature.")]
        label = "_".join(part.split(".", 1)[-1].replace("=", "-").replace("/", "-") for part in named)
        path = space.folder / "scores" / f"{label or 'default'}{'-refreshed' * refresh}-{scorer.split}.json"
        question = {"recipe": space.resolved(overrides), "refresh": refresh, "limit": scorer.limit}
        return remembered(path, question, lambda: self._merge_and_score(space, overrides, scorer, progress, refresh))

    def _merge_and_score(
        self, space: Workspace, overrides: Sequence[str], scorer: Scorer, progress: Progress, refresh: int
    ) -> dict[str, Any]:
        output = space.folder / "merged"
        cost = space.merge(overrides, output)
        for turn in range(refresh):
            measured = output.rename(_emptied(space.folder / f"merged-{turn}"))
            cost = space.merge([*overrides, *space.measure_again(overrides, measured, progress)], output)
            shutil.rmtree(measured)
        correct = scorer.merged(output, self.base, progress)
        shutil.rmtree(output)
        return {"correct": correct, **cost}

    def choose(self, seed: int, row: Row, scorer: Scorer, progress: Progress) -> tuple[str, ...]:
        """The candidate of a row with the best mean share on unseen training examples; the first of equals."""
        candidates = row.candidates()
        if len(candidates) == 1:
            return candidates[0]
        own = self.individual(seed, scorer, progress)
        shares = [normalised(self.score(seed, overrides, scorer, progress)["correct"], own) for overrides in candidates]
        return candidates[shares.index(max(shares))]

    def report(self, path: Path, progress: Progress, *, joint: bool) -> Path:
        """Do all that is not done, and write every figure as JSON."""
        self.prepare(progress)
        tuning, test = self.scorer("tuning"), self.scorer("test")
        own, rows = {}, {row.name: {} for row in self.rows}
        together: dict[int, Correct] = {}
        for seed in self.seeds:
            self.workspace(seed).measure(FISHER_CURVATURE, progress)
            own[seed] = self.individual(seed, test, progress)
            for row in self.rows:
                chosen = self.choose(seed, row, tuning, progress)
                found = self.score(seed, chosen, test, progress, refresh=row.refresh)
                rows[row.name][seed] = {"overrides": list(chosen), **found}
            if joint:
                together[seed] = self.joint(seed, test, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, self.summary(own, rows, together))
        return path

    def summary(self, own: dict[int, Correct], rows: dict[str, Any], together: dict[int, Correct]) -> dict[str, Any]:
        """Tables of accuracies and shares, with intervals, and what made them."""
        entries = []
        if together:
            entries.append(self._entry("joint training", "the training data", together, own, {}))
        for row in self.rows:
            found = rows[row.name]
            correct = {seed: found[seed]["correct"] for seed in self.seeds}
            more = {
                "recipes": {str(seed): found[seed]["overrides"] for seed in self.seeds},
                "seconds": mean(found[seed]["seconds"] for seed in self.seeds),
                "peak_bytes": max(found[seed]["peak_bytes"] for seed in self.seeds),
            }
            entries.append(self._entry(row.name, row.needs, correct, own, more))
        ours = {seed: rows["mats"][seed]["correct"] for seed in self.seeds}
        for entry in entries:
            if entry["row"] in rows and entry["row"] != "mats":
                theirs = {seed: rows[entry["row"]][seed]["correct"] for seed in self.seeds}
                entry["mats_minus_this"] = difference(ours, theirs, own)
        return {
            "track": self.track,
            "seeds": list(self.seeds),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "mats": mats.__version__,
            "examples": {task.name: len(own[self.seeds[0]][task.name]) for task in self.tasks},
            "individual": {
                task.name: mean(accuracy(own[seed][task.name]) for seed in self.seeds) for task in self.tasks
            },
            "rows": entries,
        }

    def _entry(
        self, name: str, needs: str, correct: dict[int, Correct], own: dict[int, Correct], more: dict[str, Any]
    ) -> dict[str, Any]:
        shares = [normalised(correct[seed], own[seed]) for seed in self.seeds]
        return {
            "row": name,
            "needs": needs,
            "scores": {
                task.name: mean(accuracy(correct[seed][task.name]) for seed in self.seeds) for task in self.tasks
            },
            "share": mean(shares),
            "shares": shares,
            "deviation": stdev(shares) if len(shares) > 1 else None,
            "interval": share_interval(correct, own),
            **more,
        }


def _emptied(path: Path) -> Path:
    """The path with nothing there."""
    shutil.rmtree(path, ignore_errors=True)
    return path
