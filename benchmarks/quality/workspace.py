"""One seed of one track on disk: its recipe, its metadata, and the merge of a row, each made at most once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from individuals import base_folder, individual_folder
from tasks import Task, load_task

from mats.data import DatasetSpec
from mats.engine.collection import save_metadata
from mats.engine.proxies import write_proxy
from mats.files import write_json_atomically
from mats.progress import Progress
from mats.recipes import load_recipe
from mats.recipes.requests import collection_request, metadata_folder


@dataclass(frozen=True)
class Workspace:
    """Where everything of one seed lies.

    Attributes:
        home: folder of the benchmark's task set.
        data: folder of the tasks.
        track: full, lora or ia3.
        seed: of the individual models.
        tasks: what is merged.
        examples: of each task's validation split, measured at most.
    """

    home: Path
    data: Path
    track: str
    seed: int
    tasks: tuple[Task, ...]
    examples: int

    @property
    def base(self) -> Path:
        """What the models were fine-tuned from."""
        return base_folder(self.home)

    @property
    def folder(self) -> Path:
        """Of this seed's own files."""
        return self.home / "runs" / self.track / f"seed-{self.seed}"

    @property
    def recipe(self) -> Path:
        """The recipe that drives measuring and every merge."""
        return self.folder / "recipe.yaml"

    def model(self, task: Task) -> Path:
        """A task's own model."""
        return individual_folder(self.home, self.track, task, self.seed)

    def spec(self, task: Task) -> DatasetSpec:
        """A task's dataset."""
        return load_task(task, self.data)

    def heads(self) -> dict[str, Any]:
        """What the recipe says about heads."""
        return {"heads": {"from": "own"}}

    def write_recipe(self) -> None:
        """The datasets as files, and the recipe of all models; `method: mats` unless an override says otherwise."""
        datasets = self.home / "datasets"
        datasets.mkdir(parents=True, exist_ok=True)
        models = []
        for task in self.tasks:
            path = datasets / f"{task.name}.yaml"
            spec = self.spec(task)
            content = spec.model_dump(mode="json", exclude_unset=True) | {"root": str(spec.root)}
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            models.append({"name": task.name, "path": str(self.model(task)), "data": str(path)})
        recipe = {
            "base": str(self.base),
            "models": models,
            **self.heads(),
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

    def resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The recipe with every default filled in: a result of other defaults is another result."""
        return load_recipe(self.recipe, list(overrides)).as_written()

    def stores(self, overrides: Sequence[str]) -> list[str]:
        """Names of the stores that a recipe with `overrides` reads: they tell of everything that was measured."""
        recipe = load_recipe(self.recipe, list(overrides))
        return [metadata_folder(recipe, model).name for model in recipe.models]

    def proxies(self, kind: str, progress: Progress) -> list[str]:
        """Stores made of the models' weights alone, in place of measured ones.

        Returns:
            What a recipe needs to merge with them.
        """
        folders = {task.name: self.folder / "proxies" / kind / task.name for task in self.tasks}
        for task in self.tasks:
            if not folders[task.name].exists():
                write_proxy(str(self.base), str(self.model(task)), folders[task.name], kind, progress=progress)
        return [f"models.{name}.metadata={folder}" for name, folder in folders.items()]

    def measure(self, overrides: Sequence[str], progress: Progress, *, overwrite: bool = False) -> None:
        """Step one for every model, with the statistics that a recipe with `overrides` reads."""
        measure(self.recipe, overrides, progress, overwrite=overwrite)

    def measure_again(self, overrides: Sequence[str], merged: Path, progress: Progress) -> list[str]:
        """Step one at the merged weights, each task's head on them.

        Returns:
            What a recipe needs beside `overrides` to merge with these statistics; the models stay its aim.
        """
        measured = [f"models.{task.name}.measured_on={merged}" for task in self.tasks]
        # An earlier merge at the same place may have been measured: its stores make room.
        self.measure([*overrides, *measured], progress, overwrite=True)
        return measured

    def merge(self, overrides: Sequence[str], output: Path) -> dict[str, float]:
        """Step two by the command line, in a process of its own, so that its time and its memory are its own.

        Returns:
            `seconds` of wall clock, the start of Python and torch included, and `peak_bytes` of resident memory.

        Raises:
            SystemExit: the command failed; it has said why.
        """
        shutil.rmtree(output, ignore_errors=True)
        command = [sys.executable, "-m", "mats.cli", "merge", str(self.recipe), str(output), *overrides]
        started = time.perf_counter()
        status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if status:
            raise SystemExit(f"{' '.join(command)}: exit status {status}")
        # The merge's own word: what the system tells of a child begins with its parent's memory.
        peak = json.loads((output / "run.json").read_text(encoding="utf-8"))["peak_memory_bytes"]
        return {"seconds": time.perf_counter() - started, "peak_bytes": peak}


def measure(path: Path, overrides: Sequence[str], progress: Progress, *, overwrite: bool = False) -> None:
    """Step one for every model of the recipe at `path`; a store that is there is kept, unless it is to make room."""
    recipe = load_recipe(path, list(overrides))
    for model in recipe.models:
        save_metadata(collection_request(recipe, model, overwrite=overwrite), progress)


def remembered(path: Path, question: object, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer kept at `path`, if it is to this very question; else the answer found now, which is then kept."""
    question = json.loads(json.dumps(question))
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["question"] == question:
            return kept["answer"]
    found = answer()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"question": question, "answer": found})
    return found
