"""Which tasks count: those whose own models clearly beat always giving the most frequent answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from majority import counted, majority_outcomes, no_better
from metrics import score
from tasks import Task, load_task

from mats.data import load_examples

METRICS = {"plain": "accuracy", "coded": "f1"}


def written_task(folder: Path, train: list[int], test: list[int], metric: str) -> list[int]:
    """The majority's outcomes on the test split of a task with these labels."""
    (folder / "some").mkdir()
    for split, labels in {"train": train, "validation": test, "test": test}.items():
        rows = [json.dumps({"text": f"w{index}", "label": label}) for index, label in enumerate(labels)]
        (folder / "some" / f"{split}.jsonl").write_text("\n".join(rows))
    (folder / "some" / "labels.json").write_text(json.dumps(["no", "yes", "perhaps"]))
    task = Task("some", epochs=1, train=len(train), metric=metric)
    spec = load_task(task, folder)
    return majority_outcomes(task, spec, load_examples(spec, "test"))


def test_the_most_frequent_class_is_that_of_the_train_split(tmp_path: Path) -> None:
    assert written_task(tmp_path, train=[2, 1, 2, 0], test=[1, 1, 2], metric="accuracy") == [0, 0, 1]


def test_among_equals_it_is_the_lowest(tmp_path: Path) -> None:
    assert written_task(tmp_path, train=[2, 1, 1, 2], test=[1, 2, 0], metric="accuracy") == [1, 0, 0]


def test_outcomes_of_two_classes_say_what_was_right(tmp_path: Path) -> None:
    outcomes = written_task(tmp_path, train=[0, 0, 1], test=[1, 0], metric="f1")
    assert outcomes == [2, 0]  # gold 1 and 0, both answered 0; exchanged it would be [1, 0]
    assert score("f1", outcomes) == 0


@pytest.mark.parametrize(("right", "weak"), [(64, ["plain"]), (66, [])])
def test_a_task_counts_from_a_margin_above_the_majority_on(right: int, weak: list[str]) -> None:
    own = {
        seed: {"plain": [1] * (right + step) + [0] * (100 - right - step), "coded": [3, 0]}
        for seed, step in ((0, 5), (1, -5))
    }
    majority = {"plain": [1] * 60 + [0] * 40, "coded": [2, 0]}
    assert no_better(own, majority, METRICS) == weak
    assert counted(METRICS, weak) == {name: metric for name, metric in METRICS.items() if name not in weak}


def test_the_margin_is_one_of_the_task_s_metric() -> None:
    majority = {"plain": [1, 0], "coded": [2] * 2 + [0] * 98}
    own = {0: {"plain": [1, 1], "coded": [2] * 2 + [0] * 98}}  # 98 % accurate, and F1 0
    assert no_better(own, majority, METRICS) == ["coded"]


def test_where_no_task_counts_all_do() -> None:
    assert counted(METRICS, list(METRICS)) == METRICS
