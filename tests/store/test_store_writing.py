from __future__ import annotations

import json
import struct
import weakref
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from store_cases import manifest_of, sums_of

from mats.errors import NonFiniteStatistic, OutOfSpace, OutputExists, RequestError
from mats.files import exclusive
from mats.store import (
    DataIdentity,
    LayerRecord,
    Manifest,
    ModelIdentity,
    SiteRecord,
    Sums,
    TensorRecord,
    open_store,
    pack,
    write_store,
)
from mats.store.manifest import FileRecord
from mats.store.tensor_file import Encoded
from mats.store.writing import plan_shards


def files_of(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir()}


def test_what_is_written_is_what_is_read(build):
    store = open_store(build("a"), verify=True)
    expected = sums_of(range(8))
    assert set(store) == set(expected.tensors)
    for key, tensor in expected.tensors.items():
        found = store.sum(key)
        assert torch.allclose(found, tensor, rtol=0, atol=1e-6)
        assert found.dtype == tensor.dtype
        if found.ndim == 2:
            assert torch.equal(found, found.T)
            assert torch.equal(store.diagonal(key), found.diagonal())
    assert store.examples == 8
    assert store.tokens("site", "encoder.q") == 48.0
    assert store.fourth_moment("site", "encoder.q") == expected.fourth_moments["site:encoder.q"]
    assert store.sum("diagonal/norm.weight", dtype=torch.float64).dtype == torch.float64


def test_other_readers_of_safetensors_find_the_packed_triangle(build):
    folder = build("a")
    loaded = load_file(folder / "output_gram-00001-of-00001.safetensors")
    assert torch.equal(loaded["output_gram/encoder.q"], pack(sums_of(range(8)).tensors["output_gram/encoder.q"]))


def test_symmetric_matrices_take_half(build):
    folder = build("a")
    header, data = read_raw(folder / "block-00001-of-00001.safetensors")
    assert header["block/norm.weight"]["shape"] == [10]
    assert len(data) == 10 * 4


def read_raw(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_equal_sums_give_equal_bytes_whatever_their_order(tmp_path):
    sums = sums_of(range(8))
    reversed_sums = Sums(dict(reversed(sums.tensors.items())), sums.tokens, sums.fourth_moments, sums.example_ids[::-1])
    write_store(tmp_path / "a", manifest_of(sums), sums, {"seconds": 1})
    write_store(tmp_path / "b", manifest_of(reversed_sums), reversed_sums, {"seconds": 2})
    a, b = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert a.pop("run.json") != b.pop("run.json")
    assert a == b
    assert open_store(tmp_path / "a").fingerprint == open_store(tmp_path / "b").fingerprint
    other = sums_of(range(1, 9))
    write_store(tmp_path / "c", manifest_of(other), other, {})
    assert open_store(tmp_path / "c").fingerprint != open_store(tmp_path / "a").fingerprint


def test_shards_are_filled_in_order_and_a_large_sum_stands_alone(tmp_path):
    entries = {f"diagonal/p{n}": Encoded("dense", (size,), "float32") for n, size in enumerate([10, 10, 100, 5, 5])}
    entries["diagonal/double"] = Encoded("dense", (3,), "float64")
    entries["block/p"] = Encoded("upper", (4, 4), "float32")
    plan = plan_shards(entries, 104)
    assert plan == {
        "block-00001-of-00001.safetensors": ["block/p"],
        "diagonal-00001-of-00003.safetensors": ["diagonal/double", "diagonal/p0", "diagonal/p1"],
        "diagonal-00002-of-00003.safetensors": ["diagonal/p2"],
        "diagonal-00003-of-00003.safetensors": ["diagonal/p3", "diagonal/p4"],
    }
    with pytest.raises(RequestError, match="max_shard_bytes: 0"):
        plan_shards(entries, 0)
    sums = sums_of(range(3))
    write_store(tmp_path / "s", manifest_of(sums), sums, {}, max_shard_bytes=1)
    store = open_store(tmp_path / "s", verify=True)
    assert len(store.manifest.files) == 5
    assert torch.equal(store.sum("input_gram/embed"), sums.tensors["input_gram/embed"])


def test_only_one_encoded_tensor_is_alive_at_a_time(tmp_path):
    alive, most = 0, 0

    class Counted:
        def __init__(self) -> None:
            self.entries = {f"diagonal/p{n}": Encoded("dense", (1000,), "float32") for n in range(20)}

        def read(self, key: str) -> torch.Tensor:
            nonlocal alive, most
            tensor = torch.ones(1000)
            alive += 1
            most = max(most, alive)
            weakref.finalize(tensor, released)
            return tensor

    def released() -> None:
        nonlocal alive
        alive -= 1

    write_store(tmp_path / "s", manifest_of(Sums()), Counted(), {})
    assert most <= 2


def test_existing_output_is_kept_without_overwrite_and_replaced_with_it(build, tmp_path):
    folder = build("a")
    before = files_of(folder)
    sums = sums_of(range(3))
    with pytest.raises(OutputExists, match="exists already"):
        write_store(folder, manifest_of(sums), sums, {})
    assert files_of(folder) == before
    write_store(folder, manifest_of(sums), sums, {}, overwrite=True)
    assert open_store(folder, verify=True).examples == 3


def test_a_store_being_written_is_not_written_twice(build, tmp_path):
    sums = sums_of(range(3))
    with exclusive(tmp_path / ".a.lock"), pytest.raises(OutputExists, match="another run is writing"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_sums_are_refused_and_leave_nothing(tmp_path, value):
    sums = sums_of(range(3))
    sums.tensors["diagonal/norm.weight"][1] = value
    with pytest.raises(NonFiniteStatistic, match=r"diagonal/norm\.weight: the sum ranges"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})
    assert [item.name for item in tmp_path.iterdir()] == [".a.lock"]


def test_no_space_is_told_before_the_first_byte(tmp_path, monkeypatch):
    sums = sums_of(range(3))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(OutOfSpace, match="bytes, 100 are free"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})
    assert [item.name for item in tmp_path.iterdir()] == [".a.lock"]


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    import errno

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sums = sums_of(range(3))
    monkeypatch.setattr("mats.store.tensor_file.os.fsync", full)
    with pytest.raises(OutOfSpace, match="no space left"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})
    assert [item.name for item in tmp_path.iterdir()] == [".a.lock"]


def test_a_manifest_that_disagrees_with_the_sums_is_refused(tmp_path):
    sums = sums_of(range(3))
    with pytest.raises(RequestError, match="examples is 4, but 3 ids"):
        write_store(tmp_path / "a", manifest_of(sums, examples=4), sums, {})
    with pytest.raises(RequestError, match="'e0' occurs twice"):
        write_store(tmp_path / "a", manifest_of(sums, example_ids=("e0", "e0", "e1")), sums, {})
    sums.tensors["means/x"] = torch.zeros(2)
    with pytest.raises(RequestError, match="sum 'means/x'"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})
    del sums.tensors["means/x"]
    sums.tensors["diagonal/x"] = torch.zeros(2, dtype=torch.bfloat16)
    with pytest.raises(RequestError, match="float32 or float64"):
        write_store(tmp_path / "a", manifest_of(sums), sums, {})


def test_leftovers_of_a_killed_overwrite_are_removed(build, tmp_path):
    (tmp_path / ".a.123.old").mkdir()
    (tmp_path / ".a.b.123.old").mkdir()
    (tmp_path / ".a.writing").mkdir()
    build("a")
    assert sorted(item.name for item in tmp_path.iterdir()) == [".a.b.123.old", ".a.lock", "a"]


def test_golden_bytes_of_a_shard(tmp_path):
    """The format, to the byte: whoever changes it raises the schema version."""
    sums = Sums({"block/v": torch.tensor([[1.0, 2.0], [2.0, 4.0]])}, {}, {}, ["e"])
    write_store(tmp_path / "a", manifest_of(sums, sites=(), layers=(), parameters=("v",)), sums, {})
    header = (
        b'{"__metadata__":{"format":"mats-store","schema_version":"1","statistic":"block"},'
        b'"block/v":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    )
    header += b" " * (-len(header) % 8)
    expected = struct.pack("<Q", len(header)) + header + struct.pack("<3f", 1.0, 2.0, 4.0)
    assert (tmp_path / "a" / "block-00001-of-00001.safetensors").read_bytes() == expected


def test_the_format_page_names_every_key_of_the_files_we_write(build):
    page = (Path(__file__).parents[2] / "metadata" / "README.md").read_text()
    records = (Manifest, ModelIdentity, DataIdentity, SiteRecord, LayerRecord, TensorRecord, FileRecord)
    missing = [item.name for record in records for item in fields(record) if item.name not in page]
    assert missing == []
    written = json.loads((build("a") / "manifest.json").read_text())
    assert set(written) == {item.name for item in fields(Manifest)} - {"compression"}, "schema 1 has its own keys alone"
    assert len(page.splitlines()) <= 80
