"""The study without models: what it measures, merges and keeps, told by stand-ins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scoring
import study as study_module
from rows import MATS, OWN_WEIGHTS, Row
from scoring import Scorer
from study import Study
from tasks import Task
from workspace import Workspace

from mats.progress import Silent

TASKS = (Task("one", 1, 4), Task("two", 1, 4, metric="f1"))
OUTCOMES = {"one": [1, 1, 1, 0], "two": [3, 0, 3, 2]}
ROWS = (
    Row("average", ("merge.method=average",)),
    Row("scaled", ("merge.method=ties",), ("merge.scale", (0.5, 1.0))),
    Row("proxies", ("merge.method=mats",), proxy="task_vector_gram"),
    Row("RegMean", ("merge.method=regmean", OWN_WEIGHTS), needs="metadata"),
    MATS,
    Row("mats at own weights", ("merge.method=mats", OWN_WEIGHTS), needs="metadata"),
    Row("mats again", ("merge.method=mats",), needs="data", refresh=1),
)


class FakeScorer:
    """Answers without models; the merge that ran last decides them."""

    def __init__(self, *_: Any) -> None:
        self.split, self.limit = _[3], _[4]
        self.majority = {"one": [1, 0, 0, 0], "two": [2, 0, 2, 2]}

    def correct(self, task: Task, *_: Any) -> list[int]:
        return OUTCOMES[task.name]

    def merged(self, folder: Path, *_: Any) -> dict[str, list[int]]:
        overrides = json.loads((folder / "overrides").read_text())
        return {**OUTCOMES, "one": [1, 1, 0, 0]} if "merge.scale=1" not in overrides else OUTCOMES


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """All that a study has done, in order."""
    log: dict[str, list[Any]] = {"measured": [], "merged": [], "trained": []}

    def merge(_: Workspace, overrides: Sequence[str], output: Path) -> dict[str, float]:
        log["merged"].append(list(overrides))
        output.mkdir(parents=True)
        (output / "overrides").write_text(json.dumps(list(overrides)))
        return {"seconds": 1.0, "peak_bytes": 1e9}

    def measure(self: Workspace, overrides: Sequence[str], _: Any, *, overwrite: bool = False) -> None:
        assert overwrite == any(".measured_on=" in part for part in overrides)  # other weights each time
        log["measured"].append((self.seed, tuple(overrides)))

    def resolved(_: Workspace, overrides: Sequence[str]) -> dict[str, Any]:
        return {"overrides": list(overrides), "curvature": {"examples": log.get("examples", 1000)}}

    monkeypatch.setattr(Workspace, "merge", merge)
    monkeypatch.setattr(Workspace, "measure", measure)
    monkeypatch.setattr(Workspace, "write_recipe", lambda self: None)
    monkeypatch.setattr(Workspace, "resolved", resolved)
    monkeypatch.setattr(Workspace, "stores", lambda self, overrides: ["a store"])
    monkeypatch.setattr(Workspace, "proxies", lambda self, kind, _: [f"models.one.metadata={kind}"])
    monkeypatch.setattr(study_module, "base_folder", lambda home: home / "base")
    monkeypatch.setattr(study_module, "train_individual", lambda *request: log["trained"].append(request[3].name))
    monkeypatch.setattr(study_module, "Scorer", FakeScorer)
    return log


def a_study(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> Study:
    return Study(folder / "home", folder / "data", "full", seeds, TASKS, rows=ROWS)


def test_each_way_of_measuring_is_done_once_per_seed(done: dict[str, list[Any]], tmp_path: Path) -> None:
    a_study(tmp_path).report(tmp_path / "results.json", Silent(), joint=False)
    before, again = done["measured"][:4], done["measured"][4:]
    assert before == [(0, (OWN_WEIGHTS,)), (0, ()), (1, (OWN_WEIGHTS,)), (1, ())]
    assert [(seed, overrides[0]) for seed, overrides in again] == [(0, "merge.method=mats"), (1, "merge.method=mats")]
    assert all("models.one.measured_on=" in overrides[1] for _, overrides in again)


def test_every_row_is_in_the_results_and_a_second_run_does_nothing(done: dict[str, list[Any]], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    a_study(tmp_path).report(path, Silent(), joint=False)
    first, merges = path.read_text(), len(done["merged"])
    results = json.loads(first)
    assert [entry["row"] for entry in results["rows"]] == [row.name for row in ROWS]
    assert ["merge.method=mats", "models.one.metadata=task_vector_gram"] in done["merged"]
    assert results["metrics"] == {"one": "accuracy", "two": "f1"}
    assert results["individual"] == {"one": 0.75, "two": pytest.approx(0.8)}
    a_study(tmp_path).report(path, Silent(), joint=False)
    assert (path.read_text(), len(done["merged"])) == (first, merges)


def test_a_choice_is_made_on_tuning_examples_and_scored_on_the_test_split(
    done: dict[str, list[Any]], tmp_path: Path
) -> None:
    a_study(tmp_path, (0,)).report(tmp_path / "results.json", Silent(), joint=False)
    scores = {path.name for path in (tmp_path / "home" / "runs" / "full" / "seed-0" / "scores").iterdir()}
    assert {"method-ties_scale-0.5-tuning.json", "method-ties_scale-1-tuning.json"} < scores
    assert "method-ties_scale-1-test.json" in scores
    assert "method-ties_scale-0.5-test.json" not in scores


def test_an_answer_to_other_metrics_or_other_stores_is_not_taken(
    done: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study(tmp_path, (0,))
    scorer = study.scorer("tuning")
    study.score(0, MATS, scorer, Silent())
    monkeypatch.setattr(Workspace, "stores", lambda self, overrides: ["a store at another position"])
    study.score(0, MATS, scorer, Silent())
    assert len(done["merged"]) == 2
    path = tmp_path / "home" / "runs" / "full" / "seed-0" / "scores" / "method-mats-tuning.json"
    question = json.loads(path.read_text())["question"]
    assert question["metrics"] == {"two": "f1"}
    accurate = Study(study.home, study.data, "full", (0,), TASKS[:1])
    accurate.score(0, ROWS[0], scorer, Silent())
    question = json.loads(path.with_name("method-average-tuning.json").read_text())["question"]
    assert question == {"recipe": {"overrides": ["merge.method=average"]}, "refresh": 0, "limit": 300}


def test_other_metadata_make_no_answer_stale_that_needs_none(done: dict[str, list[Any]], tmp_path: Path) -> None:
    study = a_study(tmp_path, (0,))
    scorer = study.scorer("tuning")
    for _ in range(2):
        for row in (ROWS[0], MATS):
            study.score(0, row, scorer, Silent())
        done["examples"] = 400  # type: ignore[assignment]
    assert done["merged"] == [["merge.method=average"], ["merge.method=mats"], ["merge.method=mats"]]


def test_outcomes_are_in_the_order_of_the_file_with_gold_before_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("test:10", 1, 0), ("test:2", 0, 1), ("test:1", 1, 1)]
    predictions = [{"example_id": name, "gold": gold, "prediction": found} for name, gold, found in answers]
    monkeypatch.setattr(scoring, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(scoring, "evaluate", lambda *_, **__: SimpleNamespace(predictions=predictions))
    scorer = object.__new__(Scorer)
    scorer._batches = {"one": [], "two": []}
    assert scorer.correct(TASKS[1], Path("model"), None, Path("base"), Silent()) == [3, 1, 2]
    assert scorer.correct(TASKS[0], Path("model"), None, Path("base"), Silent()) == [1, 0, 0]
