from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mats.data import DatasetSpec, missing_files
from mats.data.rows import read_rows
from mats.errors import DataError, WorkFailed

SpecFor = Callable[..., DatasetSpec]
WriteLines = Callable[[str, list[Any]], Path]


def values(spec: DatasetSpec, split: str = "test", **options: Any) -> list[Any]:
    return [row.values["n"] for row in read_rows(spec, split, **options)]


def numbered(spec_for: SpecFor, folder: Path, splits: dict[str, Any]) -> DatasetSpec:
    return spec_for(folder, source={"format": "json_lines", "files": {"train": ["a.jsonl", "b.jsonl"]}}, splits=splits)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, range(10)),
        ({"last": 3}, range(7, 10)),
        ({"without_last": 3}, range(7)),
        ({"first": 4}, range(4)),
        ({"without_first": 4}, range(4, 10)),
        ({"last": 10}, range(10)),
    ],
)
def test_splits_are_cut_by_position(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, rule: dict[str, int], expected: range
) -> None:
    write_json_lines("a.jsonl", [{"n": n} for n in range(6)])
    write_json_lines("b.jsonl", [{"n": n} for n in range(6, 10)])
    spec = numbered(spec_for, tmp_path, {"cut": {"of": "train", **rule}})
    assert values(spec, "cut") == list(expected)
    assert values(spec, "cut", limit=2) == list(expected)[:2]


def test_cut_larger_than_the_split_is_refused(tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines) -> None:
    write_json_lines("a.jsonl", [{"n": 0}])
    write_json_lines("b.jsonl", [])
    spec = numbered(spec_for, tmp_path, {"cut": {"of": "train", "last": 2}, "all": {"of": "train", "without_last": 1}})
    with pytest.raises(DataError, match="'cut' is cut 2 rows from 'train', which has 1"):
        read_rows(spec, "cut")
    with pytest.raises(DataError, match="split 'all' has no rows"):
        read_rows(spec, "all")


def test_rows_know_their_line(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "test.jsonl").write_text('{"n": 1}\n\n{"n": "\u2028"}\r\n', encoding="utf-8")
    rows = read_rows(spec_for(tmp_path), "test")
    assert [row.where.rsplit(" ", 2)[-2:] for row in rows] == [["line", "1"], ["line", "3"]]
    assert rows[1].values["n"] == "\u2028"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"split 'test' has no rows \(.*test.jsonl\)"),
        (b'{"n": 1}\n{"n": \n', r"test.jsonl line 2: not JSON"),
        (b"[1]\n", r"test.jsonl line 1: holds list"),
        (b'{"n": 1}\n\xff\xfe\n', r"test.jsonl: not UTF-8"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, spec_for: SpecFor, content: bytes, message: str) -> None:
    (tmp_path / "test.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(spec_for(tmp_path), "test")


def test_limit_does_not_read_on(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "test.jsonl").write_text('{"n": 1}\nnot JSON\n')
    assert values(spec_for(tmp_path), limit=1) == [1]


def test_missing_file_and_unknown_split(tmp_path: Path, spec_for: SpecFor) -> None:
    spec = spec_for(tmp_path)
    with pytest.raises(DataError, match=r"test.jsonl: no such file; set `root`"):
        read_rows(spec, "test")
    with pytest.raises(DataError, match=r"no split 'tset'; nearest: 'test'"):
        read_rows(spec, "tset")
    assert len(missing_files(spec)) == 1
    assert missing_files(spec, "tset") == ["dataset toy: no split 'tset'; nearest: 'test'"]


def csv_spec(spec_for: SpecFor, folder: Path, text: str, **options: Any) -> DatasetSpec:
    (folder / "test.csv").write_text(text, encoding="utf-8")
    return spec_for(folder, source={"format": "csv", "files": {"test": "test.csv"}, **options})


def test_csv_and_tsv(tmp_path: Path, spec_for: SpecFor) -> None:
    quoted = csv_spec(spec_for, tmp_path, 'text,n\n"a, b\nc",1\n')
    assert read_rows(quoted, "test")[0].values == {"text": "a, b\nc", "n": "1"}
    plain = csv_spec(spec_for, tmp_path, 'say "hi\t1\n', delimiter="\t", quoting=False, header=["text", "n"])
    assert read_rows(plain, "test")[0].values == {"text": 'say "hi', "n": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1\n", r"line 2: 1 values for 2 columns \(a, b\)"),
        ("a,b\n", "has no rows"),
        ('a,b\n"1"x,2\n', "line 2: .*expected after"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, spec_for: SpecFor, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(csv_spec(spec_for, tmp_path, text), "test")


def array_spec(spec_for: SpecFor, folder: Path) -> DatasetSpec:
    return spec_for(folder, source={"format": "arrays", "files": {"test": "test.npz"}})


def test_arrays_by_row(tmp_path: Path, spec_for: SpecFor) -> None:
    images = np.arange(24).reshape(2, 3, 4)
    np.savez(tmp_path / "test.npz", image=images, label=np.array([1, 0]))
    rows = read_rows(array_spec(spec_for, tmp_path), "test")
    assert [int(row.values["label"]) for row in rows] == [1, 0]
    np.testing.assert_array_equal(rows[1].values["image"], images[1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros(2), "label": np.zeros(3)}, "same number of rows"),
        ({"image": np.zeros(())}, "same number of rows"),
        ({"image": np.array([{"a": 1}], dtype=object)}, "no .npz file of plain arrays"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, spec_for: SpecFor, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_rows(array_spec(spec_for, tmp_path), "test")


def test_pickles_and_truncated_archives_are_refused(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "test.npz").write_bytes(pickle.dumps({"label": [1]}))
    with pytest.raises(DataError, match=r"no .npz file of plain arrays"):
        read_rows(array_spec(spec_for, tmp_path), "test")
    np.savez(tmp_path / "test.npz", label=np.arange(1000))
    content = (tmp_path / "test.npz").read_bytes()
    (tmp_path / "test.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"no .npz file of plain arrays"):
        read_rows(array_spec(spec_for, tmp_path), "test")


def test_hub_reader_on_a_local_folder(
    tmp_path: Path, spec_for: SpecFor, write_json_lines: WriteLines, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub").mkdir()
    write_json_lines("hub/train.jsonl", [{"n": n} for n in range(5)])
    source = {"format": "hub", "id": str(tmp_path / "hub"), "names": {"all": "train"}}
    spec = spec_for(tmp_path, source=source, splits={"validation": {"of": "train", "last": 2}})
    assert values(spec, "all") == [0, 1, 2, 3, 4]
    assert values(spec, "validation") == [3, 4]
    with pytest.raises(DataError, match="Unknown split"):
        read_rows(spec, "test")


def test_hub_out_of_reach_is_work_failed(tmp_path: Path, spec_for: SpecFor) -> None:
    spec = spec_for(tmp_path, source={"format": "hub", "id": "nobody/nothing-of-this-name"})
    with pytest.raises(WorkFailed, match="dataset toy: nobody/nothing-of-this-name"):
        read_rows(spec, "test")
