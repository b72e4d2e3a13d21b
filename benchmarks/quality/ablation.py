"""Which settings should be the defaults of `mats`: chosen without the test split, and checked on tasks left out.

Every variant merges all tasks, and is scored on the split `tuning`: training examples that neither the models nor their
metadata have seen. Tasks are left out in pairs, each pair once: the variant that is best on the others is looked at on
the pair. Were a variant the best by chance, it would not be chosen again and again, nor keep its share there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from scoring import task_shares
from study import Study
from variants import VARIANTS

from mats.files import write_json_atomically
from mats.progress import Progress


def decide(study: Study, path: Path, progress: Progress) -> None:
    """Score every variant, print and write the table, and what the left-out pairs say."""
    scorer = study.scorer("tuning")
    study.prepare(VARIANTS, progress)
    own = {seed: study.individual(seed, scorer, progress) for seed in study.seeds}
    metrics = study.counted(own, scorer)
    shares: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        per_seed = []
        for seed in study.seeds:
            outcomes = study.score(seed, variant, scorer, progress)["correct"]
            per_seed.append(task_shares(outcomes, own[seed], metrics))
        shares[variant.name] = {name: mean(seed[name] for seed in per_seed) for name in metrics}
        print(f"{mean(shares[variant.name].values()):.4f}  {variant.name}", flush=True)
    found = left_out(shares) if len(metrics) > 2 else None  # a pair leaves something to choose by
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"seeds": list(study.seeds), "shares": shares, "left_out": found})
    if found is not None:
        _print(found)


def left_out(shares: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What leaving out every pair of tasks says of a choice among variants.

    Args:
        shares: variant → task → share; three tasks or more.

    Returns:
        `pairs`: of each pair the variant that is best on the others, its share on the pair, and the best that any has
        there; `share` and `best`: their means over pairs; `chosen`: variant → how often it is chosen.
    """
    tasks = list(next(iter(shares.values())))
    pairs = []
    for pair in combinations(tasks, 2):
        others = [task for task in tasks if task not in pair]
        chosen = max(shares, key=lambda name: mean(shares[name][task] for task in others))
        on_pair = {name: mean(found[task] for task in pair) for name, found in shares.items()}
        pairs.append({"tasks": list(pair), "chosen": chosen, "share": on_pair[chosen], "best": max(on_pair.values())})
    return {
        "pairs": pairs,
        "share": mean(pair["share"] for pair in pairs),
        "best": mean(pair["best"] for pair in pairs),
        "chosen": dict(Counter(pair["chosen"] for pair in pairs).most_common()),
    }


def _print(found: dict[str, Any]) -> None:
    for pair in found["pairs"]:
        print(f"left out {', '.join(pair['tasks'])}: {pair['chosen']} → {pair['share']:.4f}, best {pair['best']:.4f}")
    for name, times in found["chosen"].items():
        print(f"chosen {times} of {len(found['pairs'])} times: {name}")
    print(f"on what was left out: {found['share']:.4f}, where the best of each pair has {found['best']:.4f}")
