"""How well the metadata alone rank candidate merges: predicted loss against measured share, over data-free merges.

Merges that were made by minimising these very losses are left out: of them the prediction could only think well. So is
the one that minimises the losses of proxies: it is no closed form, and would take as long as all others together.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import mean

from rows import MATS
from scipy.stats import spearmanr
from scoring import task_shares
from study import Study

from mats.engine import predict
from mats.files import write_json_atomically
from mats.progress import Progress
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request


def rank(study: Study, path: Path, progress: Progress) -> None:
    """Predict and score every candidate of every row, print and write the rank correlations.

    Scores are of the split `tuning`. A correlation near −1 is right: a high predicted loss means a low score.
    """
    scorer = study.scorer("tuning")
    study.prepare((MATS,), progress)
    results = {}
    for seed in study.seeds:
        space = study.workspace(seed)
        own = study.individual(seed, scorer, progress)
        metrics = study.counted({seed: own}, scorer)
        folders, shares = {}, {}
        for row in (row for row in study.rows if row.needs == "nothing" and row.proxy is None):
            for candidate in row.candidates():
                name = f"{row.name} {candidate.overrides[-1]}"
                folders[name] = space.folder / "candidates" / f"{len(folders)}"
                space.merge(candidate.overrides, folders[name])
                found = study.score(seed, candidate, scorer, progress)["correct"]
                shares[name] = task_shares(found, own, metrics)
        request = merge_request(load_recipe(space.recipe), output=space.folder / "unused")
        predicted = predict(request, {name: str(folder) for name, folder in folders.items()}, inputs_too=False)
        losses = {candidate.name: candidate.tasks for candidate in predicted.candidates}
        results[str(seed)] = {
            "spearman": _correlations(losses, shares),
            "covered": predicted.share,
            "losses": losses,
            "shares": shares,
        }
        shutil.rmtree(space.folder / "candidates")
        print(f"seed {seed}: {results[str(seed)]['spearman']}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, results)


def _correlations(losses: dict[str, dict[str, float]], shares: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Spearman's rank correlation of predicted loss and share: over the means of all tasks, and for each task.

    None where all merges score alike, so that there are no ranks.
    """
    tasks = list(next(iter(shares.values())))

    def correlation(of: list[str]) -> float | None:
        loss = [sum(losses[name][task] for task in of) for name in losses]
        share = [mean(shares[name][task] for task in of) for name in losses]
        return float(spearmanr(loss, share).statistic) if len(set(share)) > 1 else None

    return {"all tasks": correlation(tasks), **{task: correlation([task]) for task in tasks}}
