"""docs/methods.md and the reports know every method that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from mats.methods import TiesSettings, method_names
from mats.recipes.ties_strings import AGGREGATES, BASIC, ELECTIONS
from mats.reporting.explanations import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def table_after(heading: str) -> str:
    return PAGE.split(heading)[1].split("\n\n## ")[0]


def test_every_method_has_a_row() -> None:
    table = table_after("## All of them").split("\n\n")[1]
    words = [word for row in table.splitlines()[2:] for word in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])]
    assert sorted(words) == sorted(method_names())


def test_reports_explain_every_method() -> None:
    assert set(METHODS) == set(method_names())


def test_every_word_of_ties_is_told() -> None:
    section = table_after("## TIES")
    for key, field in TiesSettings.model_fields.items():
        assert key in section
        for word in getattr(field.annotation, "__args__", ()):
            assert not isinstance(word, str) or f"`{word}`" in section or f": {word}" in section, word
    for word in (*ELECTIONS, *AGGREGATES, *BASIC):
        assert f"`{word}`" in section
