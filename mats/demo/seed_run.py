"""One seed of the demo: data, specialists, metadata, one recipe, and every candidate merged and scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from mats.data import load_spec
from mats.demo.candidates import CANDIDATES, Candidate
from mats.demo.domains import DOMAINS, load_digits, write_dataset
from mats.demo.specialists import train_specialists
from mats.engine import merge
from mats.engine.collection import save_metadata
from mats.evaluation import evaluate_models
from mats.progress import Progress
from mats.recipes import load_recipe
from mats.recipes.requests import collection_request, merge_request

METADATA_EXAMPLES = 300


@dataclass(frozen=True)
class SeedRun:
    """Where one seed's files lie.

    Attributes:
        folder: holds data, models, metadata, recipe.yaml and merged/.
        models: folder of each model by name, `base` among them.
        data: dataset file of each domain.
        recipe: drives both steps; `mats merge` repeats any candidate with it.
    """

    seed: int
    folder: Path
    models: dict[str, Path]
    data: dict[str, Path]
    recipe: Path

    def merged(self, candidate: Candidate) -> Path:
        """Folder of a candidate's result."""
        return self.folder / "merged" / candidate.folder_name


def prepare(folder: Path, seed: int, progress: Progress) -> SeedRun:
    """Write the data, train the models, and write the recipe that drives both steps."""
    digits = load_digits(seed)
    data = {domain: write_dataset(folder / "data", domain, digits) for domain in DOMAINS}
    models = train_specialists(folder / "models", digits, seed, progress)
    recipe = {
        "base": str(models["base"]),
        "models": [{"name": domain, "path": str(models[domain]), "data": str(data[domain])} for domain in DOMAINS],
        "curvature": {
            "statistics": ["input_gram", "output_gram", "diagonal"],
            "parameters": ["*.weight", "*.bias"],  # the class token and the positions would take a pass per example
            "split": "validation",
            "examples": METADATA_EXAMPLES,
            "labels": "exact",  # ten classes: the expectation over the model's own labels costs little
            "batch_size": 100,
            "store": str(folder / "metadata"),
        },
        "merge": {"method": "mats"},
        "output": str(folder / "merged" / "again"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return SeedRun(seed, folder, models, data, path)


def measure(run: SeedRun, progress: Progress) -> None:
    """Step one: the curvature of every specialist on its own validation examples."""
    recipe = load_recipe(run.recipe)
    for model in recipe.models:
        save_metadata(collection_request(recipe, model), progress)


def merge_candidates(run: SeedRun, progress: Progress) -> None:
    """Step two, once for each candidate."""
    for candidate in CANDIDATES:
        recipe = load_recipe(run.recipe, candidate.overrides)
        merge(merge_request(recipe, output=run.merged(candidate)), progress)


def accuracies(run: SeedRun, folders: dict[str, Path], split: str, progress: Progress) -> dict[str, dict[str, float]]:
    """Accuracy of each model on each domain: model → domain → share of right answers."""
    specs = [load_spec(path) for path in run.data.values()]
    result: dict[str, Any] = evaluate_models(list(folders.items()), specs, split, batch_size=256, progress=progress)
    return {
        entry["name"]: {domain: found["value"] for domain, found in entry["results"].items()}
        for entry in result["models"]
    }


def individual_accuracies(run: SeedRun, split: str, progress: Progress) -> dict[str, float]:
    """Each specialist's accuracy on its own domain."""
    found = {}
    for domain, path in run.data.items():
        result = evaluate_models(
            [(domain, run.models[domain])], [load_spec(path)], split, batch_size=256, progress=progress
        )
        found[domain] = result["models"][0]["results"][domain]["value"]
    return found


def validation_shares(run: SeedRun, progress: Progress) -> dict[str, float]:
    """Label of each candidate → mean over domains of its validation accuracy ÷ the domain's specialist's."""
    individual = individual_accuracies(run, "validation", progress)
    folders = {candidate.label: run.merged(candidate) for candidate in CANDIDATES}
    return {
        label: mean(found[domain] / individual[domain] for domain in individual)
        for label, found in accuracies(run, folders, "validation", progress).items()
    }
