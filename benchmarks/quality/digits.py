"""The other regime: the demo's small vision transformer, whose specialists pull apart.

There, unlike on MiniLM, a solution that follows its quadratics to the end ruins every task, so the two together say
whether one setting serves both. Scored on the demo's validation images, on which the metadata were measured too: the
test images are left to the demo.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import mean

from rows import measurements
from variants import DIGITS_VARIANTS
from workspace import measure

from mats.demo.domains import DOMAINS
from mats.demo.seed_run import SeedRun, accuracies, individual_accuracies, prepare
from mats.engine import merge
from mats.files import write_json_atomically
from mats.progress import Progress
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request


def decide_on_digits(home: Path, seeds: tuple[int, ...], path: Path, progress: Progress) -> None:
    """Train the specialists of each seed, merge by every variant, print and write the mean shares."""
    shares: dict[str, list[float]] = {variant.name: [] for variant in DIGITS_VARIANTS}
    for seed in seeds:
        run = _prepared(home / f"seed-{seed}", seed, progress)
        for curvature in measurements(DIGITS_VARIANTS):
            measure(run.recipe, curvature, progress)
        own = individual_accuracies(run, "validation", progress)
        for variant in DIGITS_VARIANTS:
            output = run.folder / "merged" / "variant"
            shutil.rmtree(output, ignore_errors=True)
            merge(merge_request(load_recipe(run.recipe, list(variant.overrides)), output=output), progress)
            found = accuracies(run, {variant.name: output}, "validation", progress)[variant.name]
            shares[variant.name].append(mean(found[domain] / own[domain] for domain in DOMAINS))
    for name, values in shares.items():
        print(f"{mean(values):.4f}  {name}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"seeds": list(seeds), "split": "validation", "shares": shares})


def _prepared(folder: Path, seed: int, progress: Progress) -> SeedRun:
    """The specialists of a seed; made anew unless all are there."""
    done = folder / "prepared"
    if done.exists():
        names = ("base", *DOMAINS)
        models = {name: folder / "models" / name for name in names}
        data = {domain: folder / "data" / f"{domain}.yaml" for domain in DOMAINS}
        return SeedRun(seed, folder, models, data, folder / "recipe.yaml")
    shutil.rmtree(folder, ignore_errors=True)
    run = prepare(folder, seed, progress)
    done.touch()
    return run
