"""What dataset files say beyond classes: numbers, answers, columns kept, one template or all, slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mats.data import DatasetSpec, check_labels_fit, load_examples, load_spec, metrics_for
from mats.data.metric_names import MetricName
from mats.errors import DataError, RecipeError, RequestError

SpecFor = Callable[..., DatasetSpec]
WriteLines = Callable[[str, list[Any]], Path]

JINJA = {
    "templates": [
        {"name": "plain", "jinja": "{{ q }} ||| {{ answer_choices[label] }}", "answer_choices": "no ||| yes"},
        {"name": "long", "jinja": "Say: {{ q }} ||| {{ answer_choices[label] }}", "answer_choices": "No ||| Yes"},
        {"name": "free", "jinja": "{{ q }}? ||| {{ ['no', 'yes'][label] }}"},
    ]
}
QUESTIONS = [{"q": "is it", "label": 1}, {"q": "was it", "label": 0}, {"q": "may it", "label": 1}]


def test_regression_reads_numbers(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"text": "a", "label": "2.5"}, {"text": "b", "label": 4}])
    spec = spec_for(tmp_path, task="text_regression", labels=None)
    assert [example.label for example in load_examples(spec, "test")] == [2.5, 4.0]
    assert (spec.num_labels, spec.metrics) == (1, ("pearson_spearman",))


@pytest.mark.parametrize("label", ["high", None, True, float("nan"), [1]])
def test_what_is_no_number_is_named(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, label: Any
) -> None:
    write_json_lines("test.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(DataError, match=r"test.jsonl line 1: (label .*a finite number|field 'label' is null)"):
        load_examples(spec_for(tmp_path, task="text_regression", labels=None), "test")


def test_templates_cycle_stay_or_are_all_shown(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", QUESTIONS)
    spec = spec_for(tmp_path, task="text_to_text", labels=None, prompts=JINJA)
    assert spec.template_names == ("plain", "long", "free")
    cycled = [(example.example_id, example.text) for example in load_examples(spec, "test")]
    assert cycled == [("test:0", "is it"), ("test:1", "Say: was it"), ("test:2", "may it?")]
    one = [(example.example_id, example.text) for example in load_examples(spec.with_template(1), "test")]
    assert one == [("test:0", "Say: is it"), ("test:1", "Say: was it"), ("test:2", "Say: may it")]
    every = load_examples(spec.with_template("all"), "test", start=1, limit=1)
    assert [example.example_id for example in every] == ["test:1:0", "test:1:1", "test:1:2"]
    assert [example.choices for example in every] == [("no", "yes"), ("No", "Yes"), ()]
    assert [(example.label, example.target) for example in every] == [(0, "no"), (0, "No"), (None, "no")]
    with pytest.raises(RequestError, match="no template 3; 0 to 2"):
        spec.with_template(3)
    with pytest.raises(RequestError, match="no template 0; it has none"):
        spec_for(tmp_path).with_template(0)


def test_a_slice_keeps_ids_and_templates(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", QUESTIONS)
    spec = spec_for(tmp_path, task="text_to_text", labels=None, prompts=JINJA)
    whole = load_examples(spec, "test")
    assert load_examples(spec, "test", start=1) == whole[1:]
    assert load_examples(spec, "test", start=1, limit=1) == whole[1:2]


def test_a_specification_stands_without_promptsources_files(tmp_path: Path, write_json_lines: WriteLines) -> None:
    shipped = Path(__file__).parents[2] / "configs" / "datasets" / "ties" / "t5" / "wsc.yaml"
    spec = load_spec(shipped)
    again = DatasetSpec.model_validate(spec.model_dump(mode="json"))
    assert again == spec
    assert str(Path(__file__).parents[2]) not in json.dumps(spec.model_dump(mode="json", exclude={"root"}))


def test_target_that_is_no_choice_is_named(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"q": "a", "label": "maybe"}])
    prompts = {"templates": [{"name": "t", "jinja": "{{ q }} ||| {{ label }}", "answer_choices": "no ||| yes"}]}
    spec = spec_for(tmp_path, task="text_to_text", labels=None, prompts=prompts)
    with pytest.raises(DataError, match="line 1: template 't': target 'maybe' is none of the answer choices"):
        load_examples(spec, "test")


def test_missing_field_of_a_jinja_template_is_named(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines
) -> None:
    write_json_lines("test.jsonl", [{"question": "a", "label": 0}])
    spec = spec_for(tmp_path, task="text_to_text", labels=None, prompts=JINJA)
    with pytest.raises(DataError, match=r"test.jsonl line 1: template 'plain': field 'q' is missing"):
        load_examples(spec, "test")


@pytest.mark.parametrize(
    ("answers", "value", "expected"),
    [(None, "x", ("four",)), ("gold", "x", ("x",)), ("gold", ["x", "y"], ("x", "y")), ("gold", 4, ("4",))],
)
def test_answers(
    tmp_path: Path,
    spec_for: SpecFor,
    write_json_lines: WriteLines,
    answers: str | None,
    value: Any,
    expected: tuple[str, ...],
) -> None:
    write_json_lines("test.jsonl", [{"q": "2 + 2", "a": "four", "gold": value}])
    changes = {"labels": None, "template": {"input": "{q}", "target": "{a}"}, "metrics": ["exact_match"]}
    generation = {"max_new_tokens": 4, "answers": answers}
    for task in ("text_to_text", "language_modeling"):
        spec = spec_for(tmp_path, task=task, generation=generation, **changes)
        assert load_examples(spec, "test")[0].answers == expected
    write_json_lines("test.jsonl", [{"q": "2 + 2", "a": "four", "gold": []}])
    if answers:
        with pytest.raises(DataError, match="column 'gold' holds no answer"):
            load_examples(spec, "test")
        write_json_lines("test.jsonl", [{"q": "2 + 2", "a": "four"}])
        with pytest.raises(DataError, match=r"no column 'gold' for generation.answers.*set generation.answers"):
            load_examples(spec, "test")


def test_columns_are_kept(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("test.jsonl", [{"text": "a", "label": 0, "task_id": "T/1", "tests": ["x"]}])
    spec = spec_for(tmp_path, columns={"keep": ["task_id", "tests"]})
    assert load_examples(spec, "test")[0].kept == {"task_id": "T/1", "tests": ["x"]}
    with pytest.raises(DataError, match="no column 'nothing' for keep"):
        load_examples(spec_for(tmp_path, columns={"keep": ["nothing"]}), "test")


@pytest.mark.parametrize(
    ("changes", "default"),
    [
        ({}, "accuracy"),
        ({"task": "language_modeling", "labels": None}, "perplexity"),
        ({"task": "text_to_text", "labels": None, "template": {"input": "a", "target": "b"}}, "exact_match"),
        ({"task": "text_to_text", "labels": None, "template": "a", "choices": ["b", "c"]}, "accuracy"),
        ({"task": "text_to_text", "labels": None, "prompts": JINJA}, "accuracy"),
    ],
)
def test_default_metric_suits_the_task(
    tmp_path: Path, spec_for: SpecFor, changes: dict[str, Any], default: str
) -> None:
    spec = spec_for(tmp_path, **changes)
    assert spec.metrics == (default,)
    assert default in metrics_for(spec.task, has_choices=spec.has_choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["pearson"]}, "metrics: pearson does not fit text_classification; accuracy, f1"),
        ({"metrics": ["acuracy"]}, "metrics"),
        ({"metrics": []}, "metrics: none, and no generation either"),
        ({"task": "text_regression"}, "labels: 2; text_regression has one number"),
        ({"generation": {"max_new_tokens": 3}}, "generation: given for text_classification"),
        ({"perplexity": {}}, "perplexity: given for text_classification"),
        ({"prompts": JINJA}, "prompts: given for text_classification"),
        ({"template_rule": "all"}, "template_rule: all, but there are no templates"),
        ({"templates": [{"name": "a", "input": "x"}, {"name": "a", "input": "y"}]}, "the name 'a' is given twice"),
        ({"prompts": {"only": ["a"]}, "task": "text_to_text"}, "prompts: names no templates"),
        ({"prompts": {"promptsource": "quial"}, "task": "text_to_text"}, "prompts: "),
        ({"prompts": {"templates": [{"name": "a", "jinja": "{{ a"}]}, "task": "text_to_text"}, "not Jinja: line 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, spec_for: SpecFor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        spec_for(tmp_path, **changes)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({}, "generation.max_new_tokens: missing"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"max_new_tokens": 5, "temperature": 0.7}, "temperature without do_sample"),
        ({"max_new_tokens": 5, "stop": [""]}, "stop: an empty text"),
        ({"max_new_tokens": 5, "top_k": 3}, "generation.top_k: unknown key; nearest: top_p"),
    ],
)
def test_generation_settings_are_checked(
    tmp_path: Path, spec_for: SpecFor, generation: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        spec_for(tmp_path, task="language_modeling", labels=None, generation=generation)


def test_windows_of_perplexity_overlap(tmp_path: Path, spec_for: SpecFor) -> None:
    with pytest.raises(RecipeError, match="stride 9 is beyond the window of 8"):
        spec_for(tmp_path, task="language_modeling", labels=None, perplexity={"window": 8, "stride": 9})


def test_every_metric_belongs_to_a_task() -> None:
    from typing import get_args

    known = {name for part in get_args(MetricName) for name in (get_args(part) or (part,))}
    tasks = ("text_classification", "text_regression", "text_to_text", "language_modeling")
    assert known == {name for task in tasks for flag in (True, False) for name in metrics_for(task, has_choices=flag)}


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"labels": 3}, {"id2label": {"0": "a", "1": "b"}}, "labels 0 to 2, but the head of m has 2 outputs"),
        ({"labels": 3}, {}, "labels 0 to 2, but the head of m has 2 outputs"),
        (
            {"task": "text_regression", "labels": None},
            {"num_labels": 3},
            "asks for one number, but the head of m has 3",
        ),
    ],
)
def test_labels_beyond_the_head(
    tmp_path: Path, spec_for: SpecFor, changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_labels_fit(spec_for(tmp_path, **changes), config, "m")


def test_labels_within_the_head(tmp_path: Path, spec_for: SpecFor) -> None:
    check_labels_fit(spec_for(tmp_path), {}, "m")
    check_labels_fit(spec_for(tmp_path), {"id2label": {"0": "a", "1": "b", "2": "c"}}, "m")
    check_labels_fit(spec_for(tmp_path, task="language_modeling", labels=None), {"num_labels": 1}, "m")


def test_csv_with_another_header_and_numbers(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "x.csv").write_text("Old,Names\na,1\nb,2.5\n")
    source = {"format": "csv", "files": {"test": "x.csv"}, "header": ["text", "label"], "skip": 1, "numbers": ["label"]}
    spec = spec_for(tmp_path, task="text_regression", labels=None, source=source)
    assert [example.label for example in load_examples(spec, "test")] == [1.0, 2.5]
    (tmp_path / "x.csv").write_text("Old,Names\na,one\n")
    with pytest.raises(DataError, match="line 2: column 'label' holds 'one'; a number"):
        load_examples(spec, "test")


def test_named_files_of_a_repository(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "eval.json").write_text(json.dumps([{"text": "a", "label": 1}, {"text": "b", "label": 0}]))
    source = {"format": "hub", "id": str(tmp_path / "repo"), "files": {"test": "eval.json"}}
    spec = spec_for(tmp_path, source=source)
    assert [example.label for example in load_examples(spec, "test")] == [1, 0]
    with pytest.raises(DataError, match="no file for split 'train'; there are files for test"):
        load_examples(spec, "train")
    with pytest.raises(RecipeError, match=r"files.test: eval.py; one of .json"):
        spec_for(tmp_path, source={**source, "files": {"test": "eval.py"}})


def test_source_can_be_replaced(tmp_path: Path, write_json_lines: WriteLines) -> None:
    write_json_lines("mine.jsonl", [{"sentence": "fine", "label": 1, "idx": 0}] * 20)
    glue = Path(__file__).parents[2] / "configs" / "datasets" / "glue" / "sst2.yaml"
    files = {"train": "mine.jsonl", "test": "mine.jsonl"}
    spec = load_spec(glue, root=tmp_path, source={"format": "json_lines", "files": files})
    assert len(load_examples(spec, "train")) == 18
    assert len(load_examples(spec, "validation")) == 2
    with pytest.raises(RecipeError, match=r"splits.train.of: 'train' is no split of the source; test"):
        load_spec(glue, root=tmp_path, source={"format": "json_lines", "files": {"test": "mine.jsonl"}})
