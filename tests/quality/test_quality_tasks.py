"""Which tasks of a set the benchmark takes."""

from __future__ import annotations

import pytest
import typer
from tasks import TASK_SETS, chosen_tasks

FIRST = [task.name for task in TASK_SETS["first"]]


@pytest.mark.parametrize(
    ("only", "quick", "expected"),
    [
        (None, False, FIRST),
        (None, True, ["sst2", "trec", "subj", "sick"]),
        ("emotion,sst2", False, ["sst2", "emotion"]),
        ("banking77,emotion", True, ["emotion", "banking77"]),
    ],
)
def test_a_quick_look_takes_four_tasks_and_names_are_heeded(only: str | None, quick: bool, expected: list[str]) -> None:
    assert [task.name for task in chosen_tasks(TASK_SETS["first"], only, quick=quick)] == expected


def test_a_task_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(typer.BadParameter, match="boolq: not in the set; one of sst2, trec"):
        chosen_tasks(TASK_SETS["first"], "sst2,boolq", quick=False)
