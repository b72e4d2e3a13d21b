"""All seeds of one track: train, measure, merge every row, choose where there is a choice, read the test split once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from individuals import base_folder, train_individual, train_jointly
from majority import counted, no_better
from rows import ROWS, Row, measurements
from scoring import Scorer, normalised
from summary import summarise
from tasks import FULL, Sizes, Task
from workspace import Workspace, remembered

from mats.files import write_json_atomically
from mats.progress import Progress

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
        sizes: how many examples of each task are used.
        rows: the merges of the table.
    """

    home: Path
    data: Path
    track: str
    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    sizes: Sizes = FULL
    rows: tuple[Row, ...] = ROWS

    def workspace(self, seed: int) -> Workspace:
        """The files of one seed."""
        return Workspace(self.home, self.data, self.track, seed, self.tasks, self.sizes.metadata)

    @property
    def metrics(self) -> dict[str, str]:
        """Task → what it is scored by."""
        return {task.name: task.metric for task in self.tasks}

    def counted(self, own: dict[int, Correct], scorer: Scorer) -> dict[str, str]:
        """The tasks whose own models have learnt something, by the scorer's examples, and their metrics."""
        return counted(self.metrics, no_better(own, scorer.majority, self.metrics))

    @property
    def base(self) -> Path:
        """The pretrained encoder."""
        return base_folder(self.home)

    def train(self, progress: Progress) -> None:
        """Every task's own model of every seed."""
        for seed in self.seeds:
            for task in self.tasks:
                train_individual(self.home, self.data, self.track, task, seed, progress, self.sizes.training)

    def scorer(self, split: str) -> Scorer:
        """The examples of a split."""
        limit = self.sizes.tuning if split == "tuning" else self.sizes.test
        return Scorer(self.tasks, self.data, self.base, split, limit)

    def prepare(self, rows: Sequence[Row], progress: Progress) -> None:
        """What these merges need: the individual models, the recipe of each seed, and the metadata."""
        self.train(progress)
        for seed in self.seeds:
            space = self.workspace(seed)
            space.write_recipe()
            for curvature in measurements(rows):
                space.measure(curvature, progress)

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
            lambda: train_jointly(self.home, self.data, self.tasks, seed, progress, self.sizes.training),
        )

    def _alone(
        self, kind: str, seed: int, scorer: Scorer, progress: Progress, folders: Callable[[], dict[str, Path]]
    ) -> Correct:
        """Whole models, each with a head of its own, on their own tasks."""

        def answers() -> Correct:
            found = folders()
            return {t.name: scorer.correct(t, found[t.name], None, self.base, progress) for t in self.tasks}

        path = self.workspace(seed).folder / "scores" / f"{kind}-{scorer.split}.json"
        return remembered(path, self._asked(scorer), answers)

    def _asked(self, scorer: Scorer) -> dict[str, Any]:
        """What every answer depends on. Accuracy is not named: answers are older than the other metrics."""
        others = {name: metric for name, metric in self.metrics.items() if metric != "accuracy"}
        return {"limit": scorer.limit} | ({"metrics": others} if others else {})

    def score(self, seed: int, row: Row, scorer: Scorer, progress: Progress) -> dict[str, Any]:
        """One merge on one split: outcomes by task as `correct`, and the `seconds` and `peak_bytes` of the merge."""
        space = self.workspace(seed)
        overrides = [*row.overrides, *(space.proxies(row.proxy, progress) if row.proxy else ())]
        question = {"recipe": space.resolved(overrides), "refresh": row.refresh, **self._asked(scorer)}
        if row.needs == "nothing":
            del question["recipe"]["curvature"]  # how others are measured does not touch it
        else:  # the recipe leaves open where the models stand while they are measured
            question["stores"] = space.stores(overrides)
        path = space.folder / "scores" / f"{row.file_name}-{scorer.split}.json"
        return remembered(
            path, question, lambda: self._merge_and_score(space, overrides, scorer, progress, row.refresh)
        )

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

    def choose(self, seed: int, row: Row, scorer: Scorer, progress: Progress) -> Row:
        """The candidate of a row with the best mean share on unseen training examples; the first of equals."""
        candidates = row.candidates()
        if len(candidates) == 1:
            return candidates[0]
        own = self.individual(seed, scorer, progress)
        metrics = self.counted({seed: own}, scorer)
        shares = [
            normalised(self.score(seed, candidate, scorer, progress)["correct"], own, metrics)
            for candidate in candidates
        ]
        return candidates[shares.index(max(shares))]

    def report(self, path: Path, progress: Progress, *, joint: bool) -> Path:
        """Do all that is not done, and write every figure as JSON."""
        self.prepare(self.rows, progress)
        tuning, test = self.scorer("tuning"), self.scorer("test")
        own, rows = {}, {row.name: {} for row in self.rows}
        together: dict[int, Correct] = {}
        for seed in self.seeds:
            own[seed] = self.individual(seed, test, progress)
            for row in self.rows:
                chosen = self.choose(seed, row, tuning, progress)
                found = self.score(seed, chosen, test, progress)
                rows[row.name][seed] = {"overrides": list(chosen.overrides), **found}
            if joint:
                together[seed] = self.joint(seed, test, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        needs = {row.name: row.needs for row in self.rows}
        figures = summarise(own, rows, needs, together, self.metrics, test.majority)
        write_json_atomically(path, {"track": self.track, **figures})
        return path


def _emptied(path: Path) -> Path:
    """The path with nothing there."""
    shutil.rmtree(path, ignore_errors=True)
    return path
