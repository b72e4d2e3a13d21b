from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mats.data import DatasetSpec, load_examples
from mats.errors import DataError

SpecFor = Callable[..., DatasetSpec]
WriteLines = Callable[[str, list[Any]], Path]

RANKED = {"task": "text_to_text", "labels": None}


def test_ids_and_order_are_stable(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"text": f"t{n}", "label": n % 2} for n in range(5)])
    spec = spec_for(tmp_path)
    examples = load_examples(spec, "test")
    assert [example.example_id for example in examples] == [f"test:{n}" for n in range(5)]
    assert load_examples(spec, "test", limit=2) == examples[:2]


def test_pairs_columns_and_label_names(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"a": "one", "b": "two", "y": "no"}, {"a": "x", "b": "y", "y": 0}])
    spec = spec_for(tmp_path, columns={"text": "a", "text_pair": "b", "label": "y"}, labels=["yes", "no"])
    examples = load_examples(spec, "test")
    assert [(e.text, e.text_pair, e.label) for e in examples] == [("one", "two", 1), ("x", "y", 0)]


@pytest.mark.parametrize(("stored", "expected"), [(1, 1), ("1", 1), (1.0, 1), (True, 1), ("yes", 1), ("no", 0)])
def test_ways_to_store_a_label(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, stored: Any, expected: int
) -> None:
    write_json_lines("test.jsonl", [{"text": "t", "label": stored}])
    assert load_examples(spec_for(tmp_path, labels=["no", "yes"]), "test")[0].label == expected


def test_names_come_before_numbers(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    """social_i_qa stores the texts "1", "2", "3" for its first, second and third answer."""
    write_json_lines("test.jsonl", [{"text": "t", "label": "1"}, {"text": "t", "label": "3"}])
    assert [e.label for e in load_examples(spec_for(tmp_path, labels=["1", "2", "3"]), "test")] == [0, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "t", "label": 2}, r"test.jsonl line 2: label 2 is outside range; 0 to 1"),
        ({"text": "t", "label": -1}, r"line 2: label -1 is outside range"),
        ({"text": "t", "label": 0.5}, r"line 2: label 0.5; a whole number from 0 to 1"),
        ({"text": "t", "label": "maybe"}, r"line 2: label 'maybe'; a whole number"),
        ({"text": "t", "label": None}, r"line 2: field 'label' is null"),
        ({"text": "t", "labels": 1}, r"line 2: no column 'label' for label; nearest: 'labels' \(set columns.label\)"),
        ({"txt": "t", "label": 1}, r"line 2: no column 'text' for text; nearest: 'txt'"),
        ({"text": ["t"], "label": 1}, r"line 2: field 'text' is a list"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, row: dict[str, Any], message: str
) -> None:
    write_json_lines("test.jsonl", [{"text": "fine", "label": 0}, row])
    with pytest.raises(DataError, match=message):
        load_examples(spec_for(tmp_path), "test")


def test_example_i_takes_template_i_mod_n(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"q": f"q{n}", "label": 0} for n in range(5)])
    templates = [{"input": "A {q}"}, {"input": "B {q}", "choices": ["False", "True"]}]
    spec = spec_for(tmp_path, **RANKED, templates=templates, choices=["No", "Yes"])
    examples = load_examples(spec, "test")
    assert [example.text for example in examples] == ["A q0", "B q1", "A q2", "B q3", "A q4"]
    assert [example.target for example in examples] == ["No", "False", "No", "False", "No"]


def test_choices_from_columns_and_from_a_list(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    row = {"q": "?", "answer0": "red", "answer1": "blue", "options": {"text": ["x", "y", "z"]}, "label": 1}
    write_json_lines("test.jsonl", [row])
    named = spec_for(tmp_path, **RANKED, template="{q}", choices=["{answer0}", "{answer1}"])
    listed = spec_for(tmp_path, **RANKED, template="{q}", choices={"column": "options.text"})
    assert load_examples(named, "test")[0].choices == ("red", "blue")
    assert load_examples(listed, "test")[0].choices == ("x", "y", "z")
    assert load_examples(listed, "test")[0].target == "y"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": "?", "options": ["x", "y"], "label": 2}, "label 2 is outside range; 0 to 1"),
        ({"q": "?", "options": ["x"], "label": 0}, "1 answer choices; two or more"),
        ({"q": "?", "options": "xy", "label": 0}, "column 'options' holds str; a list"),
        ({"qq": "?", "options": ["x", "y"], "label": 0}, "line 1: field 'q' is missing; nearest: 'qq'"),
    ],
)
def test_bad_choices_are_named(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, row: dict[str, Any], message: str
) -> None:
    write_json_lines("test.jsonl", [row])
    with pytest.raises(DataError, match=message):
        load_examples(spec_for(tmp_path, **RANKED, template="{q}", choices={"column": "options"}), "test")


def test_generation_target_and_field_limit(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"q": "abcdef", "answers": {"text": ["long answer"]}}])
    template = {"input": "Q {q}", "target": "{answers.text.0}"}
    example = load_examples(spec_for(tmp_path, **RANKED, template=template, longest_field=4), "test")[0]
    assert (example.text, example.target, example.choices, example.label) == ("Q abcd", "long", (), None)


def test_images_of_an_array_file(tmp_path: Path, spec_for: SpecFor) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "test.npz", image=images, label=np.array([1, 0]))
    source = {"format": "arrays", "files": {"test": "test.npz"}}
    examples = load_examples(spec_for(tmp_path, task="image_classification", image={}, source=source), "test")
    assert [example.label for example in examples] == [1, 0]
    np.testing.assert_array_equal(examples[1].image, images[1])


@pytest.mark.parametrize("image", ["a.png", [1, 2], [[1, 2], [3]]])
def test_what_is_no_image_is_named(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, image: Any) -> None:
    write_json_lines("test.jsonl", [{"image": image, "label": 0}])
    with pytest.raises(DataError, match=r"line 1: column 'image' is no image"):
        load_examples(spec_for(tmp_path, task="image_classification", image={}), "test")
