"""The whole story on real embedded data: train, measure, merge by every method, evaluate, explain."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mats.demo.candidates import CANDIDATES, METHODS, Candidate, best_of_each_method
from mats.demo.domains import DOMAINS
from mats.demo.processes import tell_all
from mats.demo.seed_run import SeedRun, accuracies, individual_accuracies
from mats.engine.threads import one_thread
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
        peak_memory_bytes: Of the largest process.
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
    told = tell_all(output, seeds, progress)
    validation = {candidate.label: [part.validation[candidate.label] for part in told] for candidate in CANDIDATES}
    chosen = best_of_each_method({label: mean(values) for label, values in validation.items()})
    with one_thread():
        scores = test_scores([part.run for part in told], chosen, progress)
    result = DemoResult(
        output, scores, chosen, validation, round(time.perf_counter() - started, 1), _peak_memory_bytes()
    )
    write_json_atomically(output / "scores.json", result.as_json())
    write_page(output, result)
    return result


def _peak_memory_bytes() -> int:
    """Of the largest process: this one, or one that told a seed."""
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


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


def test_scores(runs: list[SeedRun], chosen: Mapping[str, Candidate], progress: Progress) -> Scores:
    """Accuracy on the test split of each specialist on its own domain, of the base, and of the chosen merges."""
    values: dict[str, dict[str, list[float]]] = {
        model: {domain: [] for domain in DOMAINS} for model in (SPECIALISTS, "base", *METHODS)
    }
    for run in runs:
        folders = {"base": run.models["base"], **{method: run.merged(chosen[method]) for method in METHODS}}
        found = {
            SPECIALISTS: individual_accuracies(run, "test", progress),
            **accuracies(run, folders, "test", progress),
        }
        for model, by_domain in found.items():
            for domain, accuracy in by_domain.items():
                values[model][domain].append(accuracy)
    return Scores(tuple(DOMAINS), values, reference=SPECIALISTS)
