"""`mats predict` by the command alone, on a real family: its numbers, its table, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import TinyFamily

from mats.cli import main as cli

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recipe(tiny_family: Callable[[str], TinyFamily], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe whose stores are there, and its merged result."""
    folder = tmp_path_factory.mktemp("predicted")
    path = tiny_family("bert").write_recipe(folder)
    assert cli.main(["save-metadata", str(path), "--json"]) == 0
    assert cli.main(["merge", str(path), "--json"]) == 0
    assert cli.main(["merge", str(path), str(folder / "wild"), "merge.method=task_arithmetic", "merge.scale=5"]) == 0
    return str(path)


def run(capsys: Capture, *arguments: str) -> Any:
    capsys.readouterr()
    status = cli.main([*arguments, "--json"])
    value = json.loads(capsys.readouterr().out)
    assert status == 0, value
    return value


def test_candidates_are_ranked_with_base_and_models(recipe: str, capsys: Capture) -> None:
    folder = Path(recipe).parent
    found = run(capsys, "predict", recipe, str(folder / "out"), str(folder / "wild"))
    assert (found["quantity"], found["unit"]) == ("loss", "nats per example")
    entries = {entry["name"]: entry for entry in found["candidates"]}
    tasks = list(entries["out"]["tasks"])
    assert list(entries) == ["base", *tasks, "out", "wild"]
    assert all(entries[task]["tasks"][task] == 0 for task in tasks)
    assert entries["out"]["mean"] < entries["base"]["mean"] < entries["wild"]["mean"]
    assert 0 < found["parameters"]["share"] < 1
    for name in ("out", "wild"):
        assert entries[name]["mean"] == pytest.approx(sum(entries[name]["tasks"].values()) / len(tasks))
        layers = entries[name]["layers"].values()
        assert entries[name]["tasks"][tasks[0]] == pytest.approx(sum(layer[tasks[0]] for layer in layers))


def test_the_recipes_own_result_is_the_default_and_the_method_has_no_say(recipe: str, capsys: Capture) -> None:
    plain = run(capsys, "predict", recipe, "--only-candidates")
    assert [entry["name"] for entry in plain["candidates"]] == ["out"]
    other = run(capsys, "predict", recipe, "merge.method=ties", "--only-candidates")
    assert other == plain
    errors = run(capsys, "predict", recipe, "--only-candidates", "--quantity", "output_error")
    assert "layer outputs" in errors["unit"]
    assert errors["candidates"][0]["mean"] != plain["candidates"][0]["mean"]


def test_the_table_says_what_it_covers(recipe: str, capsys: Capture) -> None:
    assert cli.main(["predict", recipe]) == 0
    out = capsys.readouterr().out
    assert "predicted rise of the loss, nats per example" in out
    assert "mean" in out
    assert "% )" not in out
    assert "parameters (" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--quantity", "accuracy"], "auto, loss or output_error would be right"),
        (["curvature.examples=31"], "run mats save-metadata on this recipe first"),
    ],
)
def test_requests_that_cannot_be_met_end_with_2(
    recipe: str, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert cli.main(["predict", recipe, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_candidate_given_twice_is_refused(recipe: str, capsys: Capture) -> None:
    out = str(Path(recipe).parent / "out")
    assert cli.main(["predict", recipe, out, out]) == 2
    assert "given 2 times" in capsys.readouterr().err
