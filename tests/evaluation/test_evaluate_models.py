from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mats.checkpoints import load_model
from mats.data import load_examples, make_batches, parse_spec
from mats.errors import DataError, RequestError
from mats.evaluation import EvaluationSettings, evaluate, evaluate_with, write_predictions


@pytest.fixture
def specs(tmp_path: Path) -> list[Any]:
    """Two image datasets of 9 and 6 examples."""
    generator = np.random.default_rng(0)
    found = []
    for name, count in (("one", 9), ("two", 6)):
        np.savez(tmp_path / f"{name}.npz", image=generator.normal(size=(count, 4, 4)), label=np.arange(count) % 3)
        content = {
            "name": name,
            "task": "image_classification",
            "source": {"format": "arrays", "files": {"test": f"{name}.npz"}},
            "labels": 3,
            "image": {"channels": 1, "largest_pixel": 1},
        }
        found.append(parse_spec(content, folder=tmp_path))
    return found


@pytest.fixture
def saved(vit: Any, tmp_path: Path) -> list[tuple[str, str]]:
    """Two checkpoints of one model, by name and path."""
    for name in ("pa", "pb"):
        vit.to("cpu", torch.float32).save_pretrained(tmp_path / name)
    return [("a", str(tmp_path / "pa")), ("b", str(tmp_path / "pb"))]


def counting() -> Any:
    """`load_model`, and the list of what it was asked for."""
    calls: list[tuple[str, str]] = []

    def load(path: str, task: str, **options: Any) -> Any:
        calls.append((Path(path).name, task))
        return load_model(path, task, **options)

    return load, calls


class Recorder:
    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def start(self, description: str, total: int | None) -> None:
        self.stages.append([description, total, 0])

    def advance(self, steps: int = 1) -> None:
        self.stages[-1][2] += steps

    def note(self, message: str) -> None:
        raise AssertionError(message)


def test_every_model_on_every_dataset(vit: Any, saved: Any, specs: list[Any], tmp_path: Path, device: str) -> None:
    load, calls = counting()
    progress = Recorder()
    settings = EvaluationSettings(batch_size=4, device=device, predictions=tmp_path / "predictions")
    report = evaluate_with(settings, saved, specs, progress=progress, load=load)
    assert json.loads(json.dumps(report)) == report
    assert calls == [("pa", "image_classification"), ("pb", "image_classification")]  # loaded once, not once a dataset
    assert progress.stages[0] == ["reading data", 2, 2]
    assert progress.stages[1:] == [["a on one", 3, 3], ["a on two", 2, 2], ["b on one", 3, 3], ["b on two", 2, 2]]
    assert report["datasets"][1] == {
        "name": "two",
        "task": "image_classification",
        "metric": "accuracy",
        "examples": 6,
    }
    for spec in specs:
        alone = evaluate(vit.float().to(device), make_batches(load_examples(spec, "test"), spec, None, 1))
        entry = report["models"][0]["results"][spec.name]
        assert entry["value"] == alone.value
        lines = (tmp_path / "predictions" / "a" / f"{spec.name}-test.jsonl").read_text().splitlines()
        assert [json.loads(line)["prediction"] for line in lines] == [
            entry["prediction"] for entry in alone.predictions
        ]
    values = [result["value"] for result in report["models"][0]["results"].values()]
    assert report["models"][0]["mean"] == pytest.approx(sum(values) / 2)


def test_limit_takes_the_first_examples(saved: Any, specs: list[Any], device: str) -> None:
    report = evaluate_with(EvaluationSettings(limit=4, device=device), saved[:1], specs)
    assert [dataset["examples"] for dataset in report["datasets"]] == [4, 4]
    assert report["limit"] == 4


def test_wrong_requests(saved: Any, specs: list[Any], device: str) -> None:
    load, calls = counting()
    settings = EvaluationSettings(device=device)
    with pytest.raises(RequestError, match="model name 'a' is given twice"):
        evaluate_with(settings, [saved[0], saved[0]], specs, load=load)
    with pytest.raises(RequestError, match="no dataset to evaluate"):
        evaluate_with(settings, saved, [], load=load)
    with pytest.raises(DataError, match="no split 'dev'"):
        evaluate_with(EvaluationSettings(split="dev", device=device), saved, specs, load=load)
    four = specs[0].model_copy(update={"labels": 4})
    with pytest.raises(DataError, match="dataset one: labels 0 to 3, but the head of model a has 3 outputs"):
        evaluate_with(settings, saved, [four], load=load)
    with pytest.raises(RequestError, match="no such file or folder"):
        evaluate_with(settings, [saved[0], ("b", saved[1][1] + "-gone")], specs, load=load)
    assert calls == []  # nothing was loaded before the request was known to be right


def test_predictions_are_written_whole(vit: Any, specs: list[Any], tmp_path: Path) -> None:
    result = evaluate(vit.float(), make_batches(load_examples(specs[0], "test"), specs[0], None, 4))
    path = write_predictions(result, tmp_path / "deep" / "p.jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(result.predictions)
    assert [other.name for other in path.parent.iterdir()] == ["p.jsonl"]
