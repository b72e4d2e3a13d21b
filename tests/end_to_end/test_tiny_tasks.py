"""The fixtures are worth testing with: specialists know their own task, the base does not, and the files are real."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_tasks import FAMILIES, TinyFamily

from mats.data import load_spec
from mats.evaluation import evaluate_models


@pytest.mark.parametrize("kind", FAMILIES)
def test_specialists_lead_on_their_own_task(kind: str, tiny_family: Callable[[str], TinyFamily]) -> None:
    family = tiny_family(kind)
    models = [("base", family.base), *((task.name, task.model) for task in family.tasks)]
    report = evaluate_models(models, [load_spec(task.data) for task in family.tasks], "test", 16)
    scores = {
        entry["name"]: {task: result["value"] for task, result in entry["results"].items()}
        for entry in report["models"]
    }
    for task in family.tasks:
        assert scores[task.name][task.name] >= 0.85, scores
        assert scores["base"][task.name] <= scores[task.name][task.name] - 0.1, scores
