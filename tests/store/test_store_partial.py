from __future__ import annotations

import errno

import pytest
import torch
from store_cases import manifest_of, sums_of

from mats.errors import InputsMismatch, NonFiniteStatistic, OutOfSpace, StoreCorrupt
from mats.store import PartialSums, Sums, open_store, partial_folder, remove_partial, write_store
from mats.store.sources import Joined, SourceParts, join_scalars

IDENTITY = {"fingerprint": "xxh3_128:1", "batch_size": 4, "ids": ("a", "b")}


def test_nothing_there_means_from_the_start(tmp_path):
    found = PartialSums(tmp_path / "s").load(IDENTITY)
    assert (found.sums, found.batches_done, found.discarded) == (None, 0, None)


def test_what_a_killed_run_was_saving_is_swept_away(tmp_path):
    partial = PartialSums(tmp_path / "s")
    partial.save(sums_of(range(2)), 1, IDENTITY)
    half = partial.path.with_name(f".{partial.path.name}.12345.tmp")
    half.write_bytes(b"half")
    assert partial.load(IDENTITY).batches_done == 1
    assert not half.exists()


def test_sums_come_back_to_the_bit(tmp_path):
    sums = sums_of(range(5))
    sums.tensors["block/norm.weight"] = torch.triu(sums.tensors["block/norm.weight"])
    sums.tensors["block/norm.weight"] += sums.tensors["block/norm.weight"].triu(1).T
    PartialSums(tmp_path / "s").save(sums, 3, IDENTITY)
    found = PartialSums(tmp_path / "s").load(IDENTITY)
    assert found.batches_done == 3
    assert found.sums is not None
    assert found.sums.example_ids == sums.example_ids
    assert found.sums.fourth_moments == sums.fourth_moments
    assert found.sums.tokens == sums.tokens
    for key, tensor in sums.tensors.items():
        upper = tensor.triu() if tensor.ndim == 2 else tensor
        back = found.sums.tensors[key]
        assert torch.equal(back.triu() if tensor.ndim == 2 else back, upper)
        assert back.dtype == tensor.dtype


@pytest.mark.parametrize("change", [{"fingerprint": "xxh3_128:2"}, {"batch_size": 8}, {"extra": 1}])
def test_sums_of_other_work_are_discarded_and_said_so(tmp_path, change):
    partial = PartialSums(tmp_path / "s")
    partial.save(sums_of(range(5)), 3, IDENTITY)
    found = partial.load({**IDENTITY, **change})
    assert (found.sums, found.batches_done) == (None, 0)
    assert next(iter(change)) in str(found.discarded)
    assert not partial.path.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x02" + bytes(7) + b"{}"])
def test_a_file_that_cannot_be_read_is_discarded_and_said_so(tmp_path, content):
    partial = PartialSums(tmp_path / "s")
    partial.save(sums_of(range(5)), 3, IDENTITY)
    partial.path.write_bytes(content)
    assert "cannot be read" in str(partial.load(IDENTITY).discarded)
    with pytest.raises(StoreCorrupt, match="partition-00000"):
        partial.source()


def test_the_file_of_before_survives_a_failed_save(tmp_path, monkeypatch):
    partial = PartialSums(tmp_path / "s")
    partial.save(sums_of(range(5)), 3, IDENTITY)
    spoilt = sums_of(range(6))
    spoilt.tensors["input_gram/embed"][0] = float("nan")
    with pytest.raises(NonFiniteStatistic, match="input_gram/embed"):
        partial.save(spoilt, 4, IDENTITY)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mats.store.tensor_file.os.fsync", full)
    with pytest.raises(OutOfSpace, match="no space left"):
        partial.save(sums_of(range(6)), 4, IDENTITY)
    assert partial.load(IDENTITY).batches_done == 3
    assert [item.name for item in partial.path.parent.iterdir()] == [partial.path.name]


def test_partitions_join_into_one_store(tmp_path):
    whole = sums_of(range(5))
    keys = sorted(whole.tensors)
    parts = []
    for number, part in enumerate((keys[:2], keys[2:])):
        partial = PartialSums(tmp_path / "s", number)
        tensors = {key: whole.tensors[key] for key in part}
        tokens = whole.tokens if number else {}
        partial.save(Sums(tensors, tokens, whole.fourth_moments, whole.example_ids), 2, IDENTITY)
        parts.append(partial.source())
    scalars = join_scalars([part.parts() for part in parts])
    assert scalars == SourceParts(whole.tokens, whole.fourth_moments, whole.example_ids)
    write_store(tmp_path / "s", manifest_of(whole), Joined(parts), {})
    write_store(tmp_path / "t", manifest_of(whole), whole, {})
    assert open_store(tmp_path / "s").fingerprint == open_store(tmp_path / "t").fingerprint
    assert partial_folder(tmp_path / "s").is_dir()
    remove_partial(tmp_path / "s")
    assert not partial_folder(tmp_path / "s").exists()


def test_partitions_over_other_examples_are_refused():
    with pytest.raises(InputsMismatch, match="partitions saw different examples"):
        join_scalars([SourceParts({}, {}, ["a"]), SourceParts({}, {}, ["b"])])
