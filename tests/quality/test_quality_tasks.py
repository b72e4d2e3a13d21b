"""Which tasks of a set the benchmark takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import typer
from tasks import TASK_SETS

FIRST = [task.name for task in TASK_SETS["first"]]


@pytest.fixture(scope="module")
def command() -> ModuleType:
    """The benchmark's command line, which is no module of any package."""
    path = Path(__file__).parents[2] / "benchmarks" / "quality" / "__main__.py"
    spec = importlib.util.spec_from_file_location("quality_command", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("only", "quick", "expected"),
    [
        (None, False, FIRST),
        (None, True, ["sst2", "trec", "subj", "sick"]),
        ("emotion,sst2", False, ["sst2", "emotion"]),
        ("banking77,emotion", True, ["emotion", "banking77"]),
    ],
)
def test_a_quick_look_takes_four_tasks_and_names_are_heeded(
    command: ModuleType, only: str | None, quick: bool, expected: list[str]
) -> None:
    assert [task.name for task in command._chosen(TASK_SETS["first"], only, quick=quick)] == expected


def test_a_task_that_is_not_there_is_named_with_those_that_are(command: ModuleType) -> None:
    with pytest.raises(typer.BadParameter, match="boolq: not in the set; one of sst2, trec"):
        command._chosen(TASK_SETS["first"], "sst2,boolq", quick=False)
