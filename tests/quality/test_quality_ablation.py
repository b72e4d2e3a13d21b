"""Leave-two-out: what is chosen without a pair of tasks, and what it is worth on them."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ablation import decide, left_out
from variants import VARIANTS

from mats.progress import Silent

TASKS = ("a", "b", "c", "d", "e", "f")


def test_every_pair_is_left_out_once_and_has_no_say_in_the_choice() -> None:
    shares = {
        "good everywhere": dict.fromkeys(TASKS, 0.9),
        "good on a and b": dict.fromkeys(TASKS, 0.88) | {"a": 1.5, "b": 1.5},
    }
    found = left_out(shares)
    assert [tuple(pair["tasks"]) for pair in found["pairs"]] == list(combinations(TASKS, 2))
    blind = [pair for pair in found["pairs"] if pair["chosen"] == "good everywhere"]
    assert [(pair["tasks"], pair["share"], pair["best"]) for pair in blind] == [(["a", "b"], 0.9, 1.5)]
    assert found["chosen"] == {"good on a and b": 14, "good everywhere": 1}


def test_means_are_over_pairs() -> None:
    random = np.random.default_rng(0)
    shares = {str(name): dict(zip(TASKS, random.random(6).tolist(), strict=True)) for name in range(4)}
    found = left_out(shares)
    assert len(found["pairs"]) == 15
    for pair in found["pairs"]:
        others = [task for task in TASKS if task not in pair["tasks"]]
        totals = {name: sum(of[task] for task in others) for name, of in shares.items()}
        assert totals[pair["chosen"]] == max(totals.values())
        assert pair["share"] == pytest.approx(mean(shares[pair["chosen"]][task] for task in pair["tasks"]))
    assert found["share"] == pytest.approx(mean(pair["share"] for pair in found["pairs"]))
    assert found["best"] >= found["share"]
    assert sum(found["chosen"].values()) == 15


@pytest.mark.parametrize("count", [2, 3])
def test_the_metadata_of_all_variants_are_asked_for_and_tasks_that_do_not_count_are_left_out(
    count: int, tmp_path: Path
) -> None:
    tasks, asked = TASKS[:count], []
    answers = {name: [1, 1, 0, 0] for name in (*tasks, "weak")}
    study: Any = SimpleNamespace(
        seeds=(0, 1),
        scorer=lambda split: split,
        prepare=lambda rows, progress: asked.append(rows),
        individual=lambda seed, scorer, progress: {**answers, "a": [1, 1, 1, 0]},
        counted=lambda own, scorer: dict.fromkeys(tasks, "accuracy"),
        score=lambda seed, variant, scorer, progress: {"correct": answers},
    )
    decide(study, tmp_path / "ablation.json", Silent())
    assert asked == [VARIANTS]
    result = json.loads((tmp_path / "ablation.json").read_text())
    shares = dict.fromkeys(tasks, 1.0) | {"a": pytest.approx(2 / 3)}
    assert result["shares"] == {variant.name: shares for variant in VARIANTS}
    assert (result["left_out"] is None) == (count == 2)
