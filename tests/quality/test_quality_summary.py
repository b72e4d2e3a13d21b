"""The figures of the table and how they are shown."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
import pytest
from page import render
from summary import summarise

EXAMPLES = 60
Outcomes = dict[int, dict[str, list[int]]]


def some_answers(seed: int, right: dict[str, float]) -> Outcomes:
    """Three seeds of right or wrong answers, right with these probabilities; all 2 · gold + predicted for `coded`."""
    random = np.random.default_rng(seed)
    found: Outcomes = {}
    for each in range(3):
        found[each] = {}
        for name, probability in right.items():
            correct = random.random(EXAMPLES) < probability
            gold = np.arange(EXAMPLES) % 3 == 0
            found[each][name] = [int(v) for v in (2 * gold + (gold == correct) if name == "coded" else correct)]
    return found


def figures(own: Outcomes, rows: dict[str, Outcomes], metrics: dict[str, str], majority: dict[str, list[int]]) -> Any:
    merges = {
        row: {
            seed: {"overrides": [f"merge.method={row}"], "correct": correct, "seconds": seed + 1.0, "peak_bytes": 2e9}
            for seed, correct in outcomes.items()
        }
        for row, outcomes in rows.items()
    }
    return summarise(own, merges, dict.fromkeys(rows, "metadata"), {}, metrics, majority)


def test_tasks_scored_by_accuracy_have_the_figures_they_always_had() -> None:
    own = some_answers(0, {"one": 0.9, "two": 0.8})
    rows = {"mats": some_answers(1, {"one": 0.8, "two": 0.7}), "average": some_answers(2, {"one": 0.6, "two": 0.6})}
    majority = {"one": [1, 0] * 30, "two": [1, 0] * 30}
    found = figures(own, rows, dict.fromkeys(majority, "accuracy"), majority)
    assert found["no_better_than_majority"] == []
    for entry in found["rows"]:
        answers = rows[entry["row"]]
        shares = [mean(sum(answers[s][t]) / sum(own[s][t]) for t in majority) for s in own]
        assert entry["shares"] == pytest.approx(shares)
        assert entry["share"] == pytest.approx(mean(shares))
        assert entry["scores"] == {t: pytest.approx(mean(sum(answers[s][t]) / 60 for s in own)) for t in majority}
    mats, average = found["rows"]
    assert average["mats_minus_this"]["value"] == pytest.approx(mats["share"] - average["share"])
    low, high = average["mats_minus_this"]["interval"]
    assert low < average["mats_minus_this"]["value"] < high
    assert "mats_minus_this" not in mats


def test_a_task_that_is_not_learnt_is_shown_and_left_out_of_the_share() -> None:
    metrics = {"one": "accuracy", "coded": "f1", "hard": "accuracy"}
    own = some_answers(0, {"one": 0.9, "coded": 0.9, "hard": 0.6})
    merged = some_answers(1, {"one": 0.8, "coded": 0.8, "hard": 0.1})
    majority = {"one": [1, 0] * 30, "coded": [2, 0, 0] * 20, "hard": [1] * 36 + [0] * 24}
    found = figures(own, {"mats": merged}, metrics, majority)
    assert found["no_better_than_majority"] == ["hard"]
    assert found["majority"] == {"one": 0.5, "coded": 0.0, "hard": 0.6}
    kept = {"one": "accuracy", "coded": "f1"}
    assert found["rows"][0]["share"] == figures(own, {"mats": merged}, kept, majority)["rows"][0]["share"]
    assert found["rows"][0]["interval"] == figures(own, {"mats": merged}, kept, majority)["rows"][0]["interval"]
    assert found["rows"][0]["scores"]["hard"] == pytest.approx(mean(sum(merged[s]["hard"]) / 60 for s in own))

    shown = render(found)
    lines = shown.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")][3:6] == ["one", "coded", "hard †"]
    assert lines[3].startswith("| majority class | – | .500 | .000 | .600 | – |")
    assert {line.count("|") for line in lines[:5]} == {lines[0].count("|")}
    assert "† the task's own models do not beat the majority class by 0.05: left out of the share." in shown
    assert "Scores are accuracies, but for coded by F1 of class 1." in shown


def test_where_every_task_counts_or_none_does_the_page_says_so() -> None:
    own, merged = some_answers(0, {"one": 0.9}), some_answers(1, {"one": 0.8})
    assert "†" not in render(figures(own, {"mats": merged}, {"one": "accuracy"}, {"one": [1, 0] * 30}))
    nothing_learnt = figures(own, {"mats": merged}, {"one": "accuracy"}, {"one": [1] * 60})
    assert "so it is with every task, and the shares mean little" in render(nothing_learnt)


def test_a_negative_score_keeps_its_sign() -> None:
    own, against = some_answers(0, {"coded": 0.9}), some_answers(1, {"coded": 0.1})
    found = figures(own, {"mats": against}, {"coded": "matthews_correlation"}, {"coded": [0] * 60})
    assert found["rows"][0]["share"] < 0
    assert f"| -{-found['rows'][0]['scores']['coded']:.3f} |".replace("-0.", "-.") in render(found)
