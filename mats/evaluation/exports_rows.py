"""Rows of an instruction file: a dataset file, or the JSON that a benchmark is shipped as."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.data import DatasetSpec, load_examples, load_spec, parse_spec
from mats.data.rows import read_rows
from mats.errors import DataError, RequestError

DATASET_FILES = (".yaml", ".yml")
JSON_FILES = (".json", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class InstructionRow:
    """One row.

    Attributes:
        key: What tells it from the others of its file: an example id, or its place counted from 0.
        values: Column → value.
        where: File and line, for messages.
    """

    key: str
    values: Mapping[str, Any]
    where: str


def is_dataset_file(path: Path) -> bool:
    """Whether a path names a dataset file, by its ending."""
    return path.suffix in DATASET_FILES


def read_instructions(path: Path, split: str) -> list[InstructionRow]:
    """The rows of `path`, in order.

    Args:
        path: A dataset file (`.yaml`), JSON lines (`.jsonl`, also `.jsonl.gz`), or one JSON list (`.json`).
        split: Of a dataset file; the others have none.

    Raises:
        RequestError: no such file, or one of another kind.
        DataError: it has no rows, or is not what its ending says.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file; a dataset file or a file of instructions would be right")
    if is_dataset_file(path):
        rows = read_rows(load_spec(path), split)
        return [InstructionRow(f"{split}:{index}", row.values, row.where) for index, row in enumerate(rows)]
    if not path.name.endswith(JSON_FILES):
        raise RequestError(f"{path}: unknown kind of file; {', '.join((*DATASET_FILES, *JSON_FILES))} would be right")
    rows_found = _json_rows(path)
    if not rows_found:
        raise DataError(f"{path}: has no rows")
    return rows_found


def read_prompts(path: Path, split: str) -> list[InstructionRow]:
    """The prompts of a dataset file, made by its templates: rows with the one column `prompt`.

    Raises:
        DataError: as `mats.data.load_examples`.
        RequestError: its examples are no texts.
    """
    spec = load_spec(path)
    if not spec.task.startswith("text") and spec.task != "language_modeling":
        raise RequestError(f"{path}: {spec.task} has no prompts; text_to_text or language_modeling would be right")
    return [
        InstructionRow(example.example_id, {"prompt": example.text}, f"{path} {example.example_id}")
        for example in load_examples(spec, split)
    ]


def spec_for_tokenizer(name: str) -> DatasetSpec:
    """A specification that says only that examples are texts: what `load_processor` wants to know."""
    source = {"format": "json_lines", "files": {"test": "unused.jsonl"}}
    return parse_spec({"name": name, "task": "language_modeling", "source": source}, folder=Path())


def text_column(row: InstructionRow, column: str) -> str:
    """A column that must hold a text.

    Raises:
        DataError: it is not there, or no text.
    """
    value = row.values.get(column)
    if not isinstance(value, str):
        known = ", ".join(row.values) or "none"
        what = "is missing" if value is None else f"is {value!r}"
        raise DataError(f"{row.where}: column '{column}' {what}; a text would be right (columns here: {known})")
    return value


def _json_rows(path: Path) -> list[InstructionRow]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            if not isinstance(content, list):
                raise DataError(f"{path}: holds one {type(content).__name__}; a JSON list of objects would be right")
            numbered = [(f"{path} row {index}", value) for index, value in enumerate(content)]
        else:
            lines = [(index, line) for index, line in enumerate(text.split("\n"), start=1) if line.strip()]
            numbered = [(f"{path} line {index}", _parse(line, path, index)) for index, line in lines]
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({error})") from error
    for where, value in numbered:
        if not isinstance(value, dict):
            raise DataError(f"{where}: {value!r} is no object; columns with their values would be right")
    return [InstructionRow(str(index), value, where) for index, (where, value) in enumerate(numbered)]


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path} line {number}: not JSON ({error})") from error
