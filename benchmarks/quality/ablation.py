"""Which settings should be the defaults of `mats`: chosen without the test split, and checked on tasks left out.

Every variant merges all tasks, and is scored on the split `tuning`: training examples that neither the models nor their
metadata have seen. Tasks are left out in pairs: the variant that is best on the others is looked at on the pair.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from scoring import task_shares
from study import Study
from variants import VARIANTS

from mats.files import write_json_atomically
from mats.progress import Progress


def decide(study: Study, path: Path, progress: Progress) -> None:
    """Score every variant, print and write the table, and what each left-out pair says."""
    scorer = study.scorer("tuning")
    study.prepare(VARIANTS, progress)
    own = {seed: study.individual(seed, scorer, progress) for seed in study.seeds}
    metrics = study.counted(own, scorer)
    shares: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        per_seed = []
        for seed in study.seeds:
            found = study.score(seed, variant, scorer, progress)["correct"]
            per_seed.append(task_shares(found, own[seed], metrics))
        shares[variant.name] = {name: mean(seed[name] for seed in per_seed) for name in per_seed[0]}
        print(f"{mean(shares[variant.name].values()):.4f}  {variant.name}", flush=True)
    result = {"seeds": list(study.seeds), "shares": shares, "left_out": _left_out(shares)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, result)
    for fold in result["left_out"]:
        print(
            f"left out {', '.join(fold['tasks'])}: {fold['chosen']} → {fold['share']:.4f}, "
            f"where the best is {fold['best']:.4f}"
        )


def _left_out(shares: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """For each pair of tasks: the variant that is best on the others, and its share on the pair."""
    tasks = list(next(iter(shares.values())))
    folds = []
    for start in range(0, len(tasks) - 1, 2):
        pair = tasks[start : start + 2]
        others = [task for task in tasks if task not in pair]
        chosen = max(shares, key=lambda name: mean(shares[name][task] for task in others))
        on_pair = {name: mean(found[task] for task in pair) for name, found in shares.items()}
        folds.append({"tasks": pair, "chosen": chosen, "share": on_pair[chosen], "best": max(on_pair.values())})
    return folds
