"""The whole story on real embedded data: train, measure, merge by every method, evaluate, explain."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mats.demo.candidates import CANDIDATES, METHODS, Candidate, best_of_each_method
from mats.demo.domains import DOMAINS
from mats.demo.seed_run import SeedRun, individual_scores, measure, merge_candidates, prepare, scores
from mats.errors import OutputExists, RequestError
from mats.files import write_bytes_atomically, write_json_atomically
from mats.progress import Progress, Silent
from mats.reporting import Scores

DEFAULT_SEEDS = 3
SPECIALISTS = "specialists"


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        output: The folder of everything the demo made.
        scores: Test accuracy of specialists, base and the chosen merge of each method, for each seed.
        chosen: The candidate of each method with the best validation score.
        validation: Label of every candidate → its normalised validation score for each seed.
        seconds: Wall time.
        peak_memory_bytes: Of this process.
    """

    output: Path
    scores: Scores
    chosen: Mapping[str, Candidate]
    validation: Mapping[str, list[float]]
    seconds: float
    peak_memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        """What `scores.json` holds: nothing that differs between runs with the same seeds."""
        return {
            "schema_version": 1,
            "seeds": self.scores.seeds,
            "test_accuracy": {model: dict(by_domain) for model, by_domain in self.scores.values.items()},
            "test_share_of_specialists": {model: self.scores.normalised(model) for model in self.scores.methods},
            "chosen_on_validation": {
                method: {"settings": dict(candidate.settings), "folder": f"seed-*/merged/{candidate.folder_name}"}
                for method, candidate in self.chosen.items()
            },
            "validation_share_of_specialists": dict(self.validation),
        }


def run_demo(
    output: Path, seeds: int = DEFAULT_SEEDS, *, overwrite: bool = False, progress: Progress | None = None
) -> DemoResult:
    """Run the demo and write its scores, plot and page beside the models.

    Settings are chosen by validation accuracy; the test split is read once, for the chosen ones.

    Args:
        output: Folder of everything the demo makes.
        seeds: How many times the whole story is told, with other splits and other weights.
        overwrite: Replace what an earlier demo left there.
        progress: Listener.

    Raises:
        OutputExists: `output` exists and `overwrite` is false.
        RequestError: `seeds` below 1, or scikit-learn missing.
    """
    from mats.demo.page import write_page

    if seeds < 1:
        raise RequestError(f"seeds: {seeds}; a whole number of at least 1 would be right")
    started = time.perf_counter()
    progress = progress or Silent()
    _clear(output, overwrite)
    runs = [_measured_and_merged(output / f"seed-{seed}", seed, progress) for seed in range(seeds)]
    validation = _normalised_over_seeds(runs, CANDIDATES, "validation", progress)
    chosen = best_of_each_method({label: mean(values) for label, values in validation.items()})
    result = DemoResult(
        output,
        test_scores(runs, chosen, progress),
        chosen,
        validation,
        round(time.perf_counter() - started, 1),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    write_json_atomically(output / "scores.json", result.as_json())
    write_page(output, result)
    return result


def _clear(output: Path, overwrite: bool) -> None:
    """Make room, but never remove a folder that is not an earlier demo's."""
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        ours = output.is_dir() and (output / "DEMO").is_file()
        if not overwrite or not ours:
            advice = "pass --overwrite or choose another folder" if ours else "choose an empty or new folder"
            raise OutputExists(f"{output}: exists already; {advice}")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(output / "DEMO", b"Made by `mats demo`; safe to delete.\n")


def _measured_and_merged(folder: Path, seed: int, progress: Progress) -> SeedRun:
    run = prepare(folder, seed, progress)
    measure(run, progress)
    merge_candidates(run, progress)
    return run


def normalised(found: Mapping[str, float], individual: Mapping[str, float]) -> float:
    """Mean over domains of a model's accuracy ÷ the domain's own specialist's."""
    return mean(found[domain] / individual[domain] for domain in individual)


def _normalised_over_seeds(
    runs: Iterable[SeedRun], candidates: Iterable[Candidate], split: str, progress: Progress
) -> dict[str, list[float]]:
    """Label of each candidate → its normalised score for each seed."""
    values: dict[str, list[float]] = {candidate.label: [] for candidate in candidates}
    for run in runs:
        individual = individual_scores(run, split, progress)
        folders = {candidate.label: run.merged(candidate) for candidate in candidates}
        for label, found in scores(run, folders, split, progress).items():
            values[label].append(normalised(found, individual))
    return values


def test_scores(runs: list[SeedRun], chosen: Mapping[str, Candidate], progress: Progress) -> Scores:
    """Accuracy on the test split of each specialist on its own domain, of the base, and of the chosen merges."""
    values: dict[str, dict[str, list[float]]] = {
        model: {domain: [] for domain in DOMAINS} for model in (SPECIALISTS, "base", *METHODS)
    }
    for run in runs:
        folders = {"base": run.models["base"], **{method: run.merged(chosen[method]) for method in METHODS}}
        found = {SPECIALISTS: individual_scores(run, "test", progress), **scores(run, folders, "test", progress)}
        for model, by_domain in found.items():
            for domain, accuracy in by_domain.items():
                values[model][domain].append(accuracy)
    return Scores(tuple(DOMAINS), values, reference=SPECIALISTS)
