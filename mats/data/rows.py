"""Rows of a dataset's source, in file order, each knowing the file and line it came from."""

from __future__ import annotations

import csv
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mats.data.sources import ArraySource, CsvSource, HubSource, JsonLinesSource
from mats.data.spec import DatasetSpec
from mats.data.split_rules import apply_rule
from mats.data.templates import MissingFieldError, nearest
from mats.errors import DataError, RequestError, WorkFailed

LONGEST_CSV_FIELD = 1 << 24  # characters; the csv module's own limit of 131072 is shorter than some passages


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        values: Column → value.
        where: `<file> line 3` or `<file> row 3`, for messages.
    """

    values: Mapping[str, Any]
    where: str


def read_rows(spec: DatasetSpec, split: str, *, limit: int | None = None, start: int = 0) -> list[Row]:
    """The rows of a split, cut as `spec.splits` says: at most `limit` of them from row `start` on.

    Raises:
        DataError: there is no such split, it has no rows, or fewer than a cut takes; a file is missing or malformed.
        RequestError: `start` or `limit` is no count, or `start` is beyond the last row.
        WorkFailed: the hub cannot be reached.
    """
    if start < 0 or (limit is not None and limit < 1):
        raise RequestError(
            f"dataset {spec.name}: start {start}, limit {limit}; 0 or more, and 1 or more, would be right"
        )
    rule = spec.splits.get(split)
    end = None if limit is None else start + limit
    if rule is None:
        rows = list(itertools.islice(_source_rows(spec, split), end))
    else:
        rows = _ruled_rows(spec, split)[:end]
    if rows and start >= len(rows):
        raise RequestError(f"dataset {spec.name}: split '{split}' has {len(rows)} rows; start {start} is beyond them")
    if not rows:
        raise DataError(
            f"dataset {spec.name}: split '{split}' has no rows{_files_of(spec, rule.of if rule else split)}"
        )
    return rows[start:]


def _ruled_rows(spec: DatasetSpec, split: str) -> list[Row]:
    """The rows that a rule of the dataset file makes."""
    rule = spec.splits[split]
    try:
        return apply_rule(
            list(_source_rows(spec, rule.of)), rule, spec.columns.label, f"dataset {spec.name}: split '{split}'"
        )
    except MissingFieldError as error:
        raise DataError(f"dataset {spec.name}: split '{split}': {error}") from error


def missing_files(spec: DatasetSpec, split: str | None = None) -> list[str]:
    """One line per file of the source (of one split, or of all) that is not there; nothing is read."""
    if isinstance(spec.source, HubSource):
        return []
    rule = spec.splits.get(split) if split is not None else None
    wanted = spec.source.files if split is None else [rule.of if rule else split]
    faults = []
    for name in wanted:
        if name not in spec.source.files:
            faults.append(_no_split(spec, name))
            continue
        paths = [spec.root / file for file in spec.source.files[name]]
        faults += [_no_file(spec, name, path) for path in paths if not path.is_file()]
    return faults


def _source_rows(spec: DatasetSpec, split: str) -> Iterator[Row]:
    """All rows of one split of the source."""
    source = spec.source
    if isinstance(source, HubSource):
        yield from _hub_rows(source, split, spec.name)
        return
    if split not in source.files:
        raise DataError(_no_split(spec, split))
    for file in source.files[split]:
        path = spec.root / file
        if not path.is_file():
            raise DataError(_no_file(spec, split, path))
        try:
            if isinstance(source, JsonLinesSource):
                yield from _json_rows(path)
            elif isinstance(source, CsvSource):
                yield from _csv_rows(path, source)
            elif isinstance(source, ArraySource):
                yield from _array_rows(path)
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror or error}; a readable {source.format} file would be right"
            ) from error


def _no_split(spec: DatasetSpec, split: str) -> str:
    return f"dataset {spec.name}: no split '{split}'{nearest(split, spec.split_names)}"


def _no_file(spec: DatasetSpec, split: str, path: Path) -> str:
    return f"dataset {spec.name}: split '{split}': {path}: no such file; set `root` to the folder of the data"


def _files_of(spec: DatasetSpec, split: str) -> str:
    """` (files)`, for the message about an empty split."""
    if isinstance(spec.source, HubSource):
        return f" ({spec.source.id})"
    return f" ({', '.join(str(spec.root / file) for file in spec.source.files.get(split, ()))})"


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); one object per line would be right"
            ) from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: holds {type(values).__name__}; one JSON object per line would be right")
        yield Row(values, where)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, ended by line feeds alone (U+2028 and the like stay inside a line)."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 - the number is for the message below
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 near line {number + 1} ({error.reason}); re-encode the file") from error


def _csv_rows(path: Path, source: CsvSource) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CSV_FIELD)
    dialect: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL if source.quoting else csv.QUOTE_NONE, "strict": True}
    reader = csv.reader(_lines(path), delimiter=source.delimiter, **dialect)
    names = source.header
    try:
        for _ in range(source.skip):
            next(reader, None)
        for values in reader:
            if names is None:
                names = tuple(values)
                continue
            if not values:
                continue
            where = f"{path} line {reader.line_num}"
            if len(values) != len(names):
                raise DataError(f"{where}: {len(values)} values for {len(names)} columns ({', '.join(names)})")
            yield Row(_with_numbers(dict(zip(names, values, strict=True)), source.numbers, where), where)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}; check `delimiter` and `quoting`") from error


def _with_numbers(values: dict[str, str], columns: Sequence[str], where: str) -> dict[str, Any]:
    """The values of a CSV row with some of them read as numbers."""
    read: dict[str, Any] = dict(values)
    for column in columns:
        text = values.get(column, "").strip()
        try:
            read[column] = int(text) if text.lstrip("+-").isdecimal() else float(text)
        except ValueError:
            raise DataError(f"{where}: column '{column}' holds {text!r}; a number would be right") from None
    return read


def _array_rows(path: Path) -> Iterator[Row]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(
            f"{path}: no .npz file of plain arrays ({_first_line(error)}); write it with numpy.savez"
        ) from error
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if not arrays or None in lengths.values() or len(set(lengths.values())) != 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "no array"
        raise DataError(f"{path}: {shapes}; arrays with the same number of rows would be right")
    for index in range(len(next(iter(arrays.values())))):
        yield Row({name: array[index] for name, array in arrays.items()}, f"{path} row {index}")


def _hub_rows(source: HubSource, split: str, name: str) -> Iterator[Row]:
    import datasets

    hub_split = source.names.get(split, split)
    where = f"{source.id}{f' ({source.config})' if source.config else ''}"
    try:
        rows: Iterable[Any] = _open_hub(source, split, hub_split)
    except ValueError as error:  # an unknown split or configuration; datasets' own words name those that exist
        raise DataError(f"dataset {name}: {where}: {_first_line(error)}") from error
    except RuntimeError as error:  # what datasets >= 4 raises for repositories that hold a script
        raise DataError(
            f"dataset {name}: {where}: {_first_line(error)}; only data files are read, never scripts"
        ) from error
    except (
        OSError,
        datasets.exceptions.DatasetsError,
    ) as error:  # includes DatasetNotFoundError and failed connections
        raise WorkFailed(f"dataset {name}: {where}: {_first_line(error)}; check the id and the connection") from error
    for index, values in enumerate(rows):
        yield Row(values, f"{where} {hub_split} row {index}")


def _open_hub(source: HubSource, split: str, hub_split: str) -> Iterable[Any]:
    """The hub's rows of one split: of the repository as it describes itself, or of the file that the source names."""
    import datasets

    if not source.files:
        rows: Iterable[Any] = datasets.load_dataset(source.id, source.config, revision=source.revision, split=hub_split)
        return rows
    if split not in source.files:
        raise ValueError(f"no file for split '{split}'; there are files for {', '.join(source.files)}")
    file = source.files[split]
    revision = f"@{source.revision}" if source.revision else ""
    local = Path(source.id).is_dir()
    path = str(Path(source.id) / file) if local else f"hf://datasets/{source.id}{revision}/{file}"
    named: Iterable[Any] = datasets.load_dataset(
        source.BUILDERS[PurePosixPath(file).suffix], data_files={"train": path}, split="train"
    )
    return named


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
