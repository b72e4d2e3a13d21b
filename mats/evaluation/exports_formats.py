"""The files that benchmark tools read: which rows become instructions, and how answers are written down."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mats.errors import DataError
from mats.evaluation.code_answers import extract_code, spaces_to_tabs, tabs_to_spaces
from mats.evaluation.exports_rows import InstructionRow, text_column

FormatName = Literal["answers", "alpaca_eval", "human_eval", "mbpp"]
MBPP_TEST = (11, 510)
"""First and last task of MBPP's test split, the only tasks that the harness looks at."""
MBPP_LONG_TESTS = 493
"""Its tests are longer than many models' context; the published prompt shows the function's signature instead."""


@dataclass(frozen=True)
class Item:
    """One thing to answer.

    Attributes:
        key: Unique in its file.
        instruction: What is put into the wrapper of the prompt.
        fields: What the format writes beside the answer.
    """

    key: str
    instruction: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """An item with its answers.

    Attributes:
        item: What was asked.
        prompt: What the model read.
        texts: What it wrote, one per sample.
        finished: Per sample, whether it ended by itself rather than at the length limit.
    """

    item: Item
    prompt: str
    texts: tuple[str, ...]
    finished: tuple[bool, ...]


@dataclass(frozen=True)
class ExportFormat:
    """A kind of prediction file.

    Attributes:
        items: Rows → items.
        render: Answers and the model's name → the bytes of the file.
        wrapper: Default prompt.
        max_new_tokens: Default length of answers.
        takes_samples: Whether it holds several answers to one item.
    """

    items: Callable[[Sequence[InstructionRow]], list[Item]]
    render: Callable[[Sequence[Answered], str], bytes]
    wrapper: str
    max_new_tokens: int
    takes_samples: bool


def plain_items(rows: Sequence[InstructionRow]) -> list[Item]:
    """Rows with a column `prompt` or `instruction`."""
    items = []
    for row in rows:
        column = "instruction" if "prompt" not in row.values and "instruction" in row.values else "prompt"
        items.append(Item(row.key, text_column(row, column)))
    return items


def alpaca_items(rows: Sequence[InstructionRow]) -> list[Item]:
    """Rows with `instruction` and, kept as they are, `dataset` and `input`."""
    items = []
    for row in rows:
        instruction = text_column(row, "instruction")
        kept = {name: row.values[name] for name in ("dataset", "input") if row.values.get(name) is not None}
        asked = f"{instruction}\n\n{kept['input']}" if kept.get("input") else instruction
        items.append(Item(row.key, asked, {"instruction": instruction, **kept}))
    return items


def human_eval_items(rows: Sequence[InstructionRow]) -> list[Item]:
    """Rows with `task_id` and `prompt`: a function to complete."""
    items = [
        Item(text_column(row, "task_id"), _script_for(text_column(row, "prompt")), {"task_id": row.values["task_id"]})
        for row in rows
    ]
    _refuse_repeats(items, rows)
    return items


def mbpp_items(rows: Sequence[InstructionRow]) -> list[Item]:
    """Rows with `task_id`, `text` and `test_list`, of which the tasks of the test split are taken, in order.

    Raises:
        DataError: a column is missing or wrong, a task comes twice, one in between is missing, or none is of the split.
    """
    chosen = [(number, row) for row in rows if MBPP_TEST[0] <= (number := _task_number(row)) <= MBPP_TEST[1]]
    chosen.sort(key=lambda pair: pair[0])
    if not chosen:
        raise DataError(
            f"{rows[0].where}: no task of the test split; task_id {MBPP_TEST[0]} to {MBPP_TEST[1]} would be right"
        )
    for (before, _), (number, row) in itertools.pairwise(chosen):
        if number != before + 1:
            raise DataError(f"{row.where}: task_id {number} follows {before}; every task once, none left out, is right")
    return [
        Item(str(number), _script_for(f"\n{text_column(row, 'text')}\nTest examples:\n{_tests(number, row)}"))
        for number, row in chosen
    ]


def render_answers(answers: Sequence[Answered], generator: str) -> bytes:
    """JSON lines: key, sample, generator, prompt, answer, finished."""
    rows = [
        {"key": answered.item.key, "sample": sample, "generator": generator, "prompt": answered.prompt}
        | {"answer": text, "finished": finished}
        for answered in answers
        for sample, (text, finished) in enumerate(zip(answered.texts, answered.finished, strict=True))
    ]
    return _lines(rows)


def render_alpaca(answers: Sequence[Answered], generator: str) -> bytes:
    """What `alpaca_eval --model_outputs` reads: a JSON list of instruction, output, generator, dataset."""
    rows = [
        {**answered.item.fields, "output": answered.texts[0].strip(), "generator": generator} for answered in answers
    ]
    return (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode()


def render_human_eval(answers: Sequence[Answered], _: str) -> bytes:
    """What `evaluate_functional_correctness` reads: JSON lines of task_id and completion, one per sample."""
    return _lines(
        [
            {"task_id": answered.item.fields["task_id"], "completion": clean_code(text)}
            for answered in answers
            for text in answered.texts
        ]
    )


def render_mbpp(answers: Sequence[Answered], _: str) -> bytes:
    """What the bigcode harness reads with `--load_generations_path`: a list of lists, by task_id - first task_id."""
    rows = [[clean_code(text) for text in answered.texts] for answered in answers]
    return (json.dumps(rows, ensure_ascii=False) + "\n").encode()


def clean_code(answer: str) -> str:
    """The code of an answer, indented by spaces: prompts show tabs, tools want spaces."""
    return extract_code(tabs_to_spaces(answer))


def signature(code: str, name: str) -> str | None:
    """`name(first, second)` of the function `name` in `code`, which is only parsed; None where there is none."""
    try:
        tree = ast.parse(code.replace("\r", ""))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return f"{name}({', '.join(argument.arg for argument in node.args.args)})"
    return None


FORMATS: dict[str, ExportFormat] = {
    "answers": ExportFormat(plain_items, render_answers, "plain", 512, True),
    "alpaca_eval": ExportFormat(alpaca_items, render_alpaca, "vicuna", 2048, False),
    "human_eval": ExportFormat(human_eval_items, render_human_eval, "alpaca", 2048, True),
    "mbpp": ExportFormat(mbpp_items, render_mbpp, "alpaca", 2048, True),
}
"""By name, with the prompts and lengths published for each (DARE, arXiv 2311.03099)."""


def _script_for(problem: str) -> str:
    return f"Create a Python script for this problem:\n{spaces_to_tabs(problem)}"


def _tests(number: int, row: InstructionRow) -> str:
    """The tests as the prompt shows them: all, one a line, or for one task the signature of what they call."""
    tests = row.values.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise DataError(f"{row.where}: column 'test_list' is {tests!r}; a list of assertions would be right")
    if number == MBPP_LONG_TESTS:
        name = tests[0].removeprefix("assert").strip().split("(")[0]
        found = signature(str(row.values.get("code") or ""), name)
        return found or name
    return "\n".join(tests)


def _task_number(row: InstructionRow) -> int:
    value = row.values.get("task_id")
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{row.where}: column 'task_id' is {value!r}; a number would be right")
    return value


def _refuse_repeats(items: Sequence[Item], rows: Sequence[InstructionRow]) -> None:
    seen: set[str] = set()
    for item, row in zip(items, rows, strict=True):
        if item.key in seen:
            raise DataError(f"{row.where}: task_id {item.key!r} comes twice; each task once would be right")
        seen.add(item.key)


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
