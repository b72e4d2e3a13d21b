"""Damaged and dangerous files: one line that names the file, at opening, before any work."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from mats.checkpoints import open_checkpoint
from mats.checkpoints.safetensors_file import SafetensorsFile
from mats.errors import CheckpointCorrupt, MatsError, RequestError

WEIGHTS = {"a": torch.randn(4, 5), "b": torch.arange(6)}


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def refused(path: Path, match: str, error: type[MatsError] = CheckpointCorrupt) -> None:
    with pytest.raises(error, match=match) as caught:
        open_checkpoint(path).close()
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)


def test_truncated_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    whole = save(WEIGHTS)
    for length in (len(whole) - 1, len(whole) - 100, len(whole) - 128, 40, 8, 7, 0):
        file.write_bytes(whole[:length])
        refused(file, r"model\.safetensors: (truncated|not a whole)")
    file.write_bytes(whole + b"x")
    refused(file, "too long")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (struct.pack("<Q", 1 << 60) + b"{}", "header of 1152921504606846976"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "unreadable safetensors header"),
        (struct.pack("<Q", 2) + b"[]", "expected an object"),
        (struct.pack("<Q", 17) + b'{"a": {}, "a": 1}', "key a occurs twice"),
        (header({"a": 3}), "tensor a is malformed"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "non-negative"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"1234", "spans 4 bytes.*needs 8"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + b"12345678", "starts at byte 4"),
        (
            header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}) + b"1234",
            "tensor . starts at byte 0, expected 4",
        ),
    ],
)
def test_a_header_that_lies(tmp_path: Path, content: bytes, match: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    refused(file, match)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_open_as_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("garbage") / "model.safetensors"
    file.write_bytes(content)
    try:
        opened = SafetensorsFile(file)
    except MatsError as error:
        message = str(error)
    else:
        message = str(file)
        assert opened.infos == {}  # such as a header of length 2, "{}"
    assert str(file) in message


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_one_wrong_byte_in_a_bin_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "w.pt"
    torch.save(WEIGHTS, file)
    content = bytearray(file.read_bytes())
    content[position % len(content)] = value
    file.write_bytes(content)
    message = ""
    try:
        with open_checkpoint(file) as checkpoint:
            for name in checkpoint.tensors:
                checkpoint.read(name)
    except MatsError as error:
        message = str(error)
    assert "\n" not in message


def test_a_dtype_from_the_future_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(header({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}) + b"1")
    refused(file, "dtype F4, which is not supported", RequestError)


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_file_cut_short_while_open(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**WEIGHTS, "large": torch.ones(size)}, file)
    with open_checkpoint(file) as checkpoint:
        os.truncate(file, file.stat().st_size - 30)
        with pytest.raises(CheckpointCorrupt, match=r"model\.safetensors: ends inside tensor"):
            [checkpoint.read(name) for name in checkpoint.tensors]


class Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_with_code_in_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2), "b": Malicious()}, file, _use_new_zipfile_serialization=new_format)
    refused(file, r"pytorch_model\.bin: not a file of tensors alone.*system")
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Malicious()))
    refused(plain, r"plain\.pt: not a")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_bin(tmp_path: Path, new_format: bool) -> None:
    file = tmp_path / "w.pt"
    torch.save({"a": torch.randn(300)}, file, _use_new_zipfile_serialization=new_format)
    for length in (0, 3, 100, file.stat().st_size // 2, file.stat().st_size - 20):
        cut = tmp_path / f"cut{length}.pt"
        cut.write_bytes(file.read_bytes()[:length])
        refused(cut, rf"cut{length}\.pt: not a")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"model": {"a": torch.ones(2)}}, "'model' is a dict"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"s": torch.eye(3).to_sparse()}, "tensor s is sparse"),
        ({}, "holds no tensor"),
    ],
)
def test_a_pickle_that_is_not_a_dictionary_of_tensors(tmp_path: Path, content: object, match: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", match)


def test_a_missing_shard_and_a_tensor_that_is_not_where_the_index_says(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    refused(tmp_path, r"model-00002-of-00002\.safetensors: shard is missing \(1 of 2")
    save_file({"c": torch.ones(2)}, tmp_path / "model-00002-of-00002.safetensors")
    refused(tmp_path, r"model-00002-of-00002\.safetensors: tensor b is not in it")
    for bad in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../escape.safetensors"}}'):
        (tmp_path / "model.safetensors.index.json").write_text(bad)
        refused(tmp_path, r"model\.safetensors\.index\.json")


def test_an_index_beats_a_single_file(tmp_path: Path) -> None:
    save_file({"stale": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
