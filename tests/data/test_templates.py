from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.data.templates import MissingFieldError, parse_template


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{a}", "1"),
        ("Q: {q} A:{ a }", "Q: why? A:1"),
        ("{{{a}}}", "{1}"),
        ("{answers.text.1}", "two"),
        ("{dotted.name}", "whole column"),
        ("{vector.0}", "3"),
    ],
)
def test_fields_are_filled(template: str, expected: str) -> None:
    row = {
        "a": 1,
        "q": "why?",
        "answers": {"text": ["one", "two"]},
        "dotted.name": "whole column",
        "vector": np.array([3]),
    }
    assert parse_template(template).render(row) == expected


def test_field_is_cut_but_literal_is_not() -> None:
    assert parse_template("prefix {a} suffix").render({"a": "abcdef"}, longest_field=3) == "prefix abc suffix"


def test_value_is_never_parsed_again() -> None:
    assert parse_template("{a}").render({"a": "{b} {{ {0.__class__}"}) == "{b} {{ {0.__class__}"


@settings(deadline=None)
@given(st.text())
def test_escaped_text_comes_back(text: str) -> None:
    assert parse_template(text.replace("{", "{{").replace("}", "}}")).render({}) == text


@settings(deadline=None)
@given(st.dictionaries(st.text("abc_", min_size=1), st.text(), min_size=1))
def test_any_row_renders_as_python_concatenation(row: dict[str, str]) -> None:
    template = "|".join("{" + key + "}" for key in row)
    assert parse_template(template).render(row) == "|".join(row.values())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a", "character 1 is never closed"),
        ("a}", "character 2 closes nothing"),
        ("{}", "column name"),
        ("{a..b}", "column name"),
    ],
)
def test_malformed_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_template(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{sentense}", r"field 'sentense' is missing; nearest: 'sentence'"),
        ("{empty}", r"field 'empty' is null"),
        ("{answers}", r"field 'answers' is a dict; step into it"),
        ("{answers.text.7}", r"field 'answers.text.7' is missing"),
        ("{answers.texts}", r"nearest: 'text'"),
        ("{sentence.upper}", r"field 'sentence.upper' is missing"),
    ],
)
def test_missing_field_is_named(template: str, message: str) -> None:
    row = {"sentence": "x", "empty": None, "answers": {"text": ["one"]}}
    with pytest.raises(MissingFieldError, match=message):
        parse_template(template).render(row)
