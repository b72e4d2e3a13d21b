"""Rows to instructions to prompts, and answers to the files that other tools read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_writers
from tiny_writers import write_lines

from mats.errors import DataError, RequestError
from mats.evaluation.exports_formats import FORMATS, Answered, Item
from mats.evaluation.exports_prompts import check_wrapper, wrap
from mats.evaluation.exports_rows import InstructionRow, read_instructions


def rows_of(*values: dict[str, Any]) -> list[InstructionRow]:
    return [InstructionRow(str(index), value, f"file row {index}") for index, value in enumerate(values)]


def mbpp_row(task: int, **more: Any) -> dict[str, Any]:
    return {"task_id": task, "text": f"Write f{task}.", "test_list": [f"assert f{task}(1) == 2", "assert True"], **more}


def answered(item: Item, *texts: str) -> Answered:
    return Answered(item, "prompt", texts, tuple(True for _ in texts))


def test_alpaca_eval_file() -> None:
    layout = FORMATS["alpaca_eval"]
    items = layout.items(
        rows_of({"instruction": "Say é.", "dataset": "koala", "output": "theirs", "generator": "they"})
    )
    assert items[0].instruction == "Say é."
    rendered = json.loads(layout.render([answered(items[0], " mine\n")], "merged"))
    assert rendered == [{"instruction": "Say é.", "dataset": "koala", "output": "mine", "generator": "merged"}]
    with_input = layout.items(rows_of({"instruction": "Sum up.", "input": "A text."}))[0]
    assert with_input.instruction == "Sum up.\n\nA text."
    assert with_input.fields["instruction"] == "Sum up."  # the tool joins models and references by it


def test_human_eval_file_and_the_program_that_is_checked() -> None:
    layout = FORMATS["human_eval"]
    prompt = 'def add(x):\n    """One more."""\n'
    item = layout.items(rows_of({"task_id": "HumanEval/0", "prompt": prompt, "entry_point": "add"}))[0]
    assert item.instruction == 'Create a Python script for this problem:\ndef add(x):\n\t"""One more."""\n'
    inside, whole = "\treturn x + 1\n", "```python\ndef add(x):\n\treturn x + 1\n```"
    lines = layout.render([answered(item, inside, whole)], "merged").decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [set(row) for row in rows] == [{"task_id", "completion"}] * 2
    for row in rows:
        program: dict[str, Any] = {}
        exec(prompt + row["completion"] + "\n", program)  # what human_eval does, with an answer written here
        assert program["add"](1) == 2


def test_human_eval_refuses_a_task_that_comes_twice() -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n"}
    with pytest.raises(DataError, match=r"file row 1: task_id 'HumanEval/0' comes twice"):
        FORMATS["human_eval"].items(rows_of(row, row))


def test_mbpp_file_is_indexed_by_task() -> None:
    layout = FORMATS["mbpp"]
    items = layout.items(rows_of(*(mbpp_row(task) for task in (3, 510, *range(11, 510), 600))))
    assert [item.key for item in items] == [str(task) for task in range(11, 511)]
    assert items[1].instruction == (
        "Create a Python script for this problem:\n\nWrite f12.\nTest examples:\nassert f12(1) == 2\nassert True"
    )
    rendered = json.loads(layout.render([answered(item, f"x = {item.key}", "y") for item in items], "merged"))
    assert len(rendered) == 500
    assert all(rendered[task - 11] == [f"x = {task}", "y"] for task in range(11, 511))


def test_mbpp_shows_the_signature_of_the_task_with_long_tests() -> None:
    code = "import math\r\ndef calculate(first, second):\r\n    return 1"
    tests = ["assert calculate(1, 2) == [" + "9, " * 5000 + "]"]
    rows = rows_of(mbpp_row(493, code=code, test_list=tests))
    assert FORMATS["mbpp"].items(rows)[0].instruction.endswith("Test examples:\ncalculate(first, second)")
    bare = rows_of(mbpp_row(493, test_list=tests))
    assert FORMATS["mbpp"].items(bare)[0].instruction.endswith("Test examples:\ncalculate")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([mbpp_row(3)], r"file row 0: no task of the test split; task_id 11 to 510"),
        ([mbpp_row(11), mbpp_row(13)], r"file row 1: task_id 13 follows 11; every task once"),
        ([mbpp_row(11), mbpp_row(11)], r"file row 1: task_id 11 follows 11"),
        ([{**mbpp_row(11), "task_id": "11"}], r"file row 0: column 'task_id' is '11'; a number"),
        ([{**mbpp_row(11), "test_list": "assert"}], r"column 'test_list' is 'assert'; a list of assertions"),
        ([{"task_id": 11, "test_list": ["a"]}], r"column 'text' is missing; .*columns here: task_id, test_list"),
    ],
)
def test_mbpp_rows_that_are_wrong(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FORMATS["mbpp"].items(rows_of(*rows))


def test_plain_answers_keep_every_sample() -> None:
    layout = FORMATS["answers"]
    items = layout.items(rows_of({"prompt": "a\u2028b"}, {"instruction": "c"}))
    both = [Answered(items[0], "P", ("1", "2"), (True, False)), Answered(items[1], "Q", ("3", "4"), (True, True))]
    rows = [json.loads(line) for line in layout.render(both, "m").decode().split("\n") if line]
    assert [(row["key"], row["sample"], row["prompt"], row["answer"], row["finished"]) for row in rows] == [
        ("0", 0, "P", "1", True),
        ("0", 1, "P", "2", False),
        ("1", 0, "Q", "3", True),
        ("1", 1, "Q", "4", True),
    ]


def test_rows_of_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"prompt": "one\u2028line"}, {"prompt": "two"}]
    lines = write_lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    spec = {"name": "rows", "task": "language_modeling", "template": "<{prompt}>"}
    (tmp_path / "rows.yaml").write_text(
        json.dumps({**spec, "source": {"format": "json_lines", "files": {"test": "rows.jsonl"}}})
    )
    for name in ("rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.yaml"):
        assert [row.values["prompt"] for row in read_instructions(tmp_path / name, "test")] == ["one\u2028line", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"\n', r"a.jsonl line 2: not JSON"),
        ("a.jsonl", "[1]\n", r"a.jsonl line 1: \[1\] is no object"),
        ("a.jsonl", "\n", r"a.jsonl: has no rows"),
        ("a.json", '{"prompt": "x"}', r"a.json: holds one dict; a JSON list"),
        ("a.json", "[", r"a.json: cannot be read as json"),
        ("a.jsonl.gz", "no gzip", r"a.jsonl.gz: cannot be read as gz"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_instructions(tmp_path / name, "test")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none.json: no such file"):
        read_instructions(tmp_path / "none.json", "test")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(RequestError, match=r"a.txt: unknown kind of file; .yaml, .yml, .json, .jsonl"):
        read_instructions(tmp_path / "a.txt", "test")


def test_wrappers() -> None:
    assert wrap("a {b} {instruction}", "plain", None) == "a {b} {instruction}"
    assert wrap("Do it.", "alpaca", None).endswith("### Instruction:\nDo it.\n\n### Response:")
    assert wrap("Do it.", "vicuna", None).endswith(" USER: Do it. ASSISTANT:")
    assert wrap("Do it.", "Q: {instruction}\nA:", None) == "Q: Do it.\nA:"
    words = tiny_writers.tokenizer()
    with pytest.raises(RequestError, match="the tokenizer has no chat template; plain, alpaca, vicuna would be right"):
        wrap("Do it.", "chat", words)
    words.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ '->' if add_generation_prompt }}"
    )
    assert wrap("Do it.", "chat", words) == "[user] Do it.->"
    for known in ("plain", "alpaca", "vicuna", "chat", "{instruction}"):
        check_wrapper(known)
    with pytest.raises(RequestError, match=r"prompt 'vicunia': unknown; plain, alpaca, vicuna, chat"):
        check_wrapper("vicunia")
