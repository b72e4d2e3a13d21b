"""Scores of a point: its merged model on the data of its models, beside scores that all points share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mats.files import exclusive, write_json_atomically
from mats.progress import Progress
from mats.recipes.schema import Recipe
from mats.recipes.scoring import MERGED, Scoring, add_relative, evaluation_settings, recipe_scorings, run_scorings
from mats.sweeps.folder import SweepFolder, read_json
from mats.sweeps.points import digest, input_signature

if TYPE_CHECKING:
    from mats.evaluation import EvaluationSettings

WITHOUT_EFFECT = ("batch_size", "device", "predictions", "trust_remote_code")
"""Settings of an evaluation that do not change its scores."""


def score_point(recipe: Recipe, merged: Path, split: str, folder: SweepFolder, progress: Progress) -> dict[str, Any]:
    """The value of `mats evaluate` for one point on one split.

    The base and the single models are scored once for the whole sweep, so nothing is compared example by example.

    Raises:
        MatsError: as `mats.evaluation.evaluate_with`.
    """
    settings = evaluation_settings(recipe, split=split)
    parts = [
        run_scorings([scoring], settings, progress)
        if scoring.name == MERGED
        else _shared(scoring, settings, folder, progress)
        for scoring in recipe_scorings(recipe, merged)
    ]
    datasets = {entry["name"]: entry for part in parts for entry in part["datasets"]}
    entries = [entry for part in parts for entry in part["models"]]
    add_relative(entries)
    return {**parts[-1], "datasets": list(datasets.values()), "models": entries}


def _shared(scoring: Scoring, settings: EvaluationSettings, folder: SweepFolder, progress: Progress) -> dict[str, Any]:
    """Scores of the base or of a single model: from the first point that needed them."""
    identity = {
        "name": scoring.name,
        "path": scoring.path,
        "datasets": [spec.model_dump(mode="json") for spec in scoring.datasets],
        "settings": {key: value for key, value in vars(settings).items() if key not in WITHOUT_EFFECT},
        "files": input_signature(scoring.path, settings.base),
    }
    path = folder.shared_scores(digest(identity))
    with exclusive(path.with_name(f".{path.name}.lock"), wait=True):
        found = read_json(path)
        if found is None:
            found = run_scorings([scoring], settings, progress)
            write_json_atomically(path, found)
    return found
