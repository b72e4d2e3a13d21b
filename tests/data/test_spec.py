from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mats.data import DatasetSpec, load_spec
from mats.errors import RecipeError, RequestError

GOOD = """\
name: toy
task: text_to_text
root: data
source: {format: json_lines, files: {train: a.jsonl, test: [b.jsonl, c.jsonl]}}
splits: {validation: {of: train, last: 5}}
template: "question: {q}"
choices: [No, Yes]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_is_read_and_root_is_beside_it(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    assert spec.root == tmp_path / "data"
    assert spec.split_names == ("train", "test", "validation")
    assert spec.template is not None
    assert spec.template.input == "question: {q}"


def test_no_and_yes_are_words(tmp_path: Path) -> None:
    """YAML 1.1 would turn the choices into booleans, as PyYAML does by default."""
    assert load_spec(write(tmp_path, GOOD)).choices == ("No", "Yes")


def test_root_can_be_replaced(tmp_path: Path) -> None:
    assert load_spec(write(tmp_path, GOOD), root=tmp_path / "other").root == tmp_path / "other"


def test_spec_is_frozen(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: a b\ntask: text_clasification\nsource: {format: json_lines, file: {test: x}}\nmax_lenght: 3\n"
        "templates: [{inptu: x}]\nlabels: no\n",
    )
    with pytest.raises(RecipeError) as caught:
        load_spec(path)
    text = "\n".join(caught.value.faults)
    for expected in (
        r"toy.yaml: name: 'a b'",
        r"toy.yaml: task: 'text_clasification'",
        r"source.files: missing",
        r"source.file: unknown key; nearest: files",
        r"max_lenght: unknown key; nearest: max_length",
        r"templates.0.inptu: unknown key; nearest: input",
    ):
        assert expected in text
    assert all(len(fault.splitlines()) == 1 for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels: missing"),
        ({"labels": ["a", "a"]}, "a name is given twice"),
        ({"labels": 0}, "labels: 0; 1 or more"),
        ({"task": "text_to_text"}, "template: missing"),
        ({"task": "text_to_text", "template": "{q}"}, "neither a target nor choices"),
        ({"choices": ["a", "b"]}, "choices: given for text_classification"),
        ({"task": "image_classification"}, "image: missing"),
        ({"padding_side": "left"}, "only right is defined"),
        ({"template": "{q", "labels": 2}, "never closed"),
        ({"template": "x", "templates": ["y"]}, "template and templates are both given"),
        ({"templates": ["y", "z"], "template_rule": 2}, "cycle, all, or 0 to 1"),
        ({"splits": {"validation": {"of": "trian", "last": 3}}}, "'trian' is no split of the source; test"),
        ({"splits": {"validation": {"of": "test", "last": 3, "first": 2}}}, "first and last are given"),
        (
            {"task": "image_classification", "image": {"mean": [0, 0], "channels": 3}},
            "mean has 2 values for 3 channels",
        ),
        ({"task": "image_classification", "image": {"std": 0}}, "above 0"),
        ({"source": {"format": "jsonl", "files": {"test": "x"}}}, "source"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, spec_for: Callable[..., DatasetSpec], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        spec_for(tmp_path, **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "toy.yaml: not YAML: line"),
        ("- a\n", "holds a list"),
        ("name: a\nname: b\n", "toy.yaml:2: name: given twice"),
        ("name: !!python/object/apply:os.getcwd []\n", "files hold plain values alone"),
    ],
)
def test_bad_yaml_is_one_fault(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_spec(write(tmp_path, text))


def test_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(RequestError, match=r"toi.yaml: no such file; did you mean .*toy.yaml"):
        load_spec(tmp_path / "toi.yaml")


def test_template_rule(tmp_path: Path, spec_for: Callable[..., DatasetSpec]) -> None:
    cycle = spec_for(tmp_path, templates=["a", "b", "c"])
    fixed = spec_for(tmp_path, templates=["a", "b", "c"], template_rule=1)
    assert [cycle.template_of(row).input for row in range(5)] == ["a", "b", "c", "a", "b"]  # type: ignore[union-attr]
    assert [fixed.template_of(row).input for row in range(3)] == ["b", "b", "b"]  # type: ignore[union-attr]
