"""Strict YAML: the scalars of YAML 1.2, no duplicate keys, no tags, lines remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RecipeError, RequestError
from mats.yaml_reader import parse_value, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("010", 10),
        ("0x10", 16),
        ("true", True),
        ("", None),
        ("~", None),
        ("'1'", "1"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


# YAML allows a key written without `?` 1024 characters (YAML 1.2, 7.4.3), escapes counted: `\\u0301` is six.
json_keys = st.text(min_size=1, max_size=80)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_keys, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_is_yaml(value: object) -> None:
    assert parse_value(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system [true]", "files hold plain values alone"),
        ("!include other.yaml", "files hold plain values alone"),
        ("{a: 1, a: 2}", "given twice"),
        ("&a [*a]", "an alias that holds itself"),
        ("{[1]: 2}", "is no word"),
        ("a: b: c", "not YAML"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_value(text)


def test_every_duplicate_key_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\nb: {c: 1,\n  c: 2}\na: 2\n")
    with pytest.raises(RecipeError, match="given twice") as caught:
        read_yaml(path)
    assert caught.value.faults == (
        f"{path}:3: b.c: given twice (first on line 2); keep one",
        f"{path}:4: a: given twice (first on line 1); keep one",
    )


def test_lines_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: x\nmodels:\n  - path: a\n    weight: 2\n")
    assert read_yaml(path).lines[("models", 0, "weight")] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n", "holds a list"), ("\tmerge: 1\n", "indent with spaces"), ("word\n", "holds a text")],
)
def test_a_recipe_is_a_mapping(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_yaml(path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(RequestError, match=r"no such file; did you mean .*digits\.yaml"):
        read_yaml(tmp_path / "digit.yaml")
    with pytest.raises(RequestError, match="does not exist"):
        read_yaml(tmp_path / "nowhere" / "digits.yaml")
    with pytest.raises(RequestError, match="is a folder"):
        read_yaml(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="is not UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
