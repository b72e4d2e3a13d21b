"""What is written is what was given, wherever and in whatever order; what cannot be written leaves no trace."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mats.checkpoints import CheckpointWriter, TensorInfo, open_checkpoint
from mats.checkpoints.journal import Journal
from mats.checkpoints.layout import plan_layout
from mats.checkpoints.partial import lock_folder, partial_folder
from mats.errors import (
    InputsMismatch,
    MatsError,
    NonFiniteWeights,
    OutOfSpace,
    OutputExists,
    RequestError,
    ShapeMismatch,
    WorkFailed,
)

CONTENT = {
    "b": torch.randn(30, 7),
    "a": torch.randn(11).to(torch.bfloat16),
    "ids": torch.arange(9),
    "c": torch.randn(4, 5, 6, dtype=torch.float64),
    "flag": torch.tensor([True, False, True]),
    "scalar": torch.tensor(0.25),
    "empty": torch.empty(0, 2),
}


def infos(content: Mapping[str, Tensor]) -> list[TensorInfo]:
    return [TensorInfo(name, value.dtype, tuple(value.shape)) for name, value in content.items()]


def write_all(output: Path, content: Mapping[str, Tensor], names: list[str] | None = None, **options: int) -> None:
    with CheckpointWriter(output, infos(content), identity="test", **options) as writer:
        for name in names or content:
            writer.write(name, content[name])
        writer.publish()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_one_file_is_read_back_by_the_reference_implementation(tmp_path: Path) -> None:
    write_all(tmp_path / "out", CONTENT)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert loaded.keys() == CONTENT.keys()
    for name, value in CONTENT.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]  # no lock, no journal, no partial folder


@given(
    limit=st.integers(1, 3000),
    order=st.permutations(list(CONTENT)),
    dtypes=st.lists(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]), min_size=1, max_size=9
    ),
)
@settings(max_examples=40, deadline=None)
def test_any_order_and_any_shard_size(
    tmp_path_factory: pytest.TempPathFactory, limit: int, order: list[str], dtypes: list[torch.dtype]
) -> None:
    extra = {f"extra.{i}": torch.ones(3 * i + 1).to(dtype) for i, dtype in enumerate(dtypes)}
    content = {**CONTENT, **extra}
    first, second = tmp_path_factory.mktemp("first") / "out", tmp_path_factory.mktemp("second") / "out"
    write_all(first, content, max_shard_bytes=limit)
    write_all(second, content, [*reversed(extra), *order], max_shard_bytes=limit)
    assert files(first) == files(second)
    shards = {name for name in files(first) if name.endswith(".safetensors")}
    loaded = {name: value for shard in shards for name, value in load_file(first / shard).items()}
    assert all(torch.equal(loaded[name], value) for name, value in content.items())
    assert len(loaded) == len(content)
    assert ("model.safetensors.index.json" in files(first)) == (len(shards) > 1)
    for layout in plan_layout(infos(content), limit).shards:
        data = {name: content[name] for name in layout.offsets}
        assert sum(value.nbytes for value in data.values()) <= limit or len([v for v in data.values() if v.nbytes]) == 1
        assert all(start % content[name].element_size() == 0 for name, start in layout.offsets.items())


def test_golden_bytes_of_a_shard(tmp_path: Path) -> None:
    write_all(tmp_path / "out", {"w": torch.tensor([1.0, -2.0]), "i": torch.tensor([3])})
    header = (
        b'{"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
    )
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex("0300000000000000" + "0000803f" + "000000c0")
    expected = len(header).to_bytes(8, "little") + header + data
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_the_index_is_the_one_that_transformers_writes(tmp_path: Path) -> None:
    write_all(tmp_path / "out", {"b": torch.ones(3), "a": torch.ones(2)}, max_shard_bytes=12)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 20},
        "weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"},
    }


def test_values_are_cast_to_the_declared_dtype_from_any_device_and_stride(tmp_path: Path, device: str) -> None:
    value = torch.randn(6, 5, device=device)
    with CheckpointWriter(tmp_path / "out", [TensorInfo("w", torch.bfloat16, (5, 6))], identity="x") as writer:
        writer.write("w", value.t())
        writer.publish()
    assert torch.equal(open_checkpoint(tmp_path / "out").read("w"), value.cpu().t().to(torch.bfloat16))


def test_rewrite_replaces_and_only_what_was_written(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", infos({"w": torch.ones(3)}), identity="x") as writer:
        with pytest.raises(InputsMismatch, match=r"tensor w was not written before; write\(\) comes first"):
            writer.rewrite("w", torch.ones(3))
        writer.write("w", torch.ones(3), note={"pass": 1})
        with pytest.raises(InputsMismatch, match=r"tensor w was written before; rewrite\(\) replaces it"):
            writer.write("w", torch.ones(3))
        writer.rewrite("w", torch.tensor([1.0, 2.0, 3.0]), note={"pass": 2})
        assert dict(writer.notes) == {"w": {"pass": 2}}
        writer.publish()
    assert torch.equal(open_checkpoint(tmp_path / "out").read("w"), torch.tensor([1.0, 2.0, 3.0]))


def test_wrong_tensors_are_refused_and_nothing_is_published(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with CheckpointWriter(output, [TensorInfo("w", torch.float16, (2,))], identity="x") as writer:
        with pytest.raises(ShapeMismatch, match=r"tensor w has shape \[3\], declared was \[2\]"):
            writer.write("w", torch.ones(3))
        with pytest.raises(InputsMismatch, match="tensor v was not declared"):
            writer.write("v", torch.ones(2))
        with pytest.raises(NonFiniteWeights, match="tensor w as float16 has NaN"):
            writer.write("w", torch.tensor([1.0, float("nan")]))
        with pytest.raises(NonFiniteWeights, match="fit this dtype"):
            writer.write("w", torch.tensor([1.0, 1e6]))  # finite, but not as float16
        with pytest.raises(WorkFailed, match="1 of 1 tensors are not written, the first is w"):
            writer.publish()
    assert not output.exists()


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ([], "no tensor to write"),
        ([TensorInfo("w", torch.float32, (1,))] * 2, "tensor w is declared twice"),
        ([TensorInfo("w", torch.complex128, (1,))], "dtype torch.complex128, which safetensors cannot hold"),
    ],
)
def test_lists_that_cannot_be_written(tmp_path: Path, tensors: list[TensorInfo], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        CheckpointWriter(tmp_path / "out", tensors, identity="x")
    with pytest.raises(RequestError, match="max_shard_bytes: 0"):
        CheckpointWriter(tmp_path / "out", tensors, identity="x", max_shard_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write_all(output, {"w": torch.zeros(2)}, max_shard_bytes=4)
    (output / "stale-00001-of-00009.safetensors").write_bytes(b"")
    before = files(output)
    with pytest.raises(OutputExists, match=r"out: exists already; choose another output or pass --overwrite"):
        CheckpointWriter(output, infos({"w": torch.ones(2)}), identity="x")
    assert files(output) == before
    assert not partial_folder(output).exists()
    with CheckpointWriter(output, infos({"w": torch.ones(2)}), identity="x", overwrite=True) as writer:
        writer.write("w", torch.ones(2))
        assert files(output) == before
        writer.publish()
    assert list(files(output)) == ["model.safetensors"]  # no old shard, no old index
    assert torch.equal(open_checkpoint(output).read("w"), torch.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def in_a_child(action: Callable[[], None]) -> str:
    """The message of the `MatsError` that `action` meets in a forked process; empty when it meets none."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            action()
        except MatsError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert os.waitpid(process, 0)[1] == 0
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    content = {"w": torch.ones(2)}
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x") as writer:
        message = in_a_child(lambda: write_all(tmp_path / "out", content))
        assert "another run is writing here; wait for it or choose another output" in message
        writer.write("w", content["w"])
        writer.publish()
    assert files(tmp_path / "out")


def test_partial_work_is_taken_up_by_its_own_identity_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    content = {name: torch.randn(50) for name in "abcd"}

    def begin(identity: str, **options: int) -> CheckpointWriter:
        return CheckpointWriter(output, infos(content), identity=identity, **options)

    with begin("one") as writer:
        writer.write("a", content["a"], note=[1])
        writer.write("b", content["b"])
        (writer.folder / ".config.json.123.tmp").write_text("half")
    with begin("one") as writer:
        assert writer.resumed
        assert set(writer.done) == {"a", "b"}
        assert dict(writer.notes) == {"a": [1]}
        assert [entry.name for entry in writer.folder.iterdir()] == ["model.safetensors"]
    with begin("two") as writer:
        assert not writer.resumed
        assert not writer.done
        writer.write("a", content["a"])
    with begin("two", max_shard_bytes=300) as writer:  # another layout: other bytes
        assert not writer.done
        for name, value in content.items():
            writer.write(name, value)
        writer.publish()
    write_all(tmp_path / "straight", content, max_shard_bytes=300)
    assert files(output) == files(tmp_path / "straight")


def test_bytes_that_do_not_match_their_checksum_are_written_again(tmp_path: Path) -> None:
    content = {name: torch.randn(50) for name in "ab"}
    output = tmp_path / "out"
    with CheckpointWriter(output, infos(content), identity="x") as writer:
        for name, value in content.items():
            writer.write(name, value)
        shard = writer.folder / "model.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1  # what a power failure may leave: the journal's line survived, the data did not
    damaged[9] ^= 1  # and the header
    shard.write_bytes(damaged)
    with CheckpointWriter(output, infos(content), identity="x") as writer:
        assert set(writer.done) == {"a"}
        writer.write("b", content["b"])
        writer.publish()
    assert torch.equal(open_checkpoint(output).read("b"), content["b"])


@pytest.mark.parametrize("tail", [b'{"name": "b", "check', b"\x00\x00\x00", b'{"nam\n', b"garbage\n"])
def test_a_journal_that_ends_inside_a_line(tmp_path: Path, tail: bytes) -> None:
    content = {name: torch.randn(5) for name in "ab"}
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x") as writer:
        writer.write("a", content["a"])
        journal = writer.folder.parent / "journal"
    journal.write_bytes(journal.read_bytes() + tail)
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x") as writer:
        for name in content.keys() - set(writer.done):
            writer.write(name, content[name])
        writer.publish()
    write_all(tmp_path / "straight", content)
    assert files(tmp_path / "out") == files(tmp_path / "straight")


def test_threads_may_write_at_the_same_time(tmp_path: Path) -> None:
    content = {f"w{i}": torch.randn(2000 + i) for i in range(40)}
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x", max_shard_bytes=50_000) as writer:
        names = iter(content)
        guard = threading.Lock()

        def work() -> None:
            while True:
                with guard:
                    name = next(names, None)
                if name is None:
                    return
                writer.write(name, content[name])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.publish()
    checkpoint = open_checkpoint(tmp_path / "out")
    assert all(torch.equal(checkpoint.read(name), value) for name, value in content.items())


def test_a_place_where_no_folder_can_be_made_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/proc says "not found" to `mkdir`: no reason to wait for an owner who is about to finish."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(WorkFailed, match="out: No such file or directory"):
        lock_folder(tmp_path / "out")


def test_too_little_space_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = os.statvfs(tmp_path)
    more_than_there_is = usage.f_bavail * usage.f_frsize // 4 + 1_000_000_000
    with pytest.raises(OutOfSpace, match=r"out: needs \d+\.\d\d GB more, the device has \d+\.\d\d GB free"):
        CheckpointWriter(tmp_path / "out", [TensorInfo("w", torch.float32, (more_than_there_is,))], identity="x")
    assert not (tmp_path / "out").exists()


def test_a_device_that_fills_up_midway_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {name: torch.randn(50) for name in "ab"}
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x") as writer:
        writer.write("a", content["a"])

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("mats.checkpoints.partial.os.pwrite", full)
        with pytest.raises(OutOfSpace, match=r"model\.safetensors: no space left on the device"):
            writer.write("b", content["b"])
        monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    with CheckpointWriter(tmp_path / "out", infos(content), identity="x") as writer:
        assert set(writer.done) == {"a"}
        writer.write("b", content["b"])
        writer.publish()


def test_a_real_limit_of_file_size_is_one_clear_line(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        write_all(tmp_path / "out", {"w": torch.ones(100_000)})

    assert "File too large" in in_a_child(limited)
    assert not (tmp_path / "out").exists()


def test_a_journal_line_that_fits_in_part_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes what there is room for, and refuses the rest; the next run drops the line without an end."""
    journal = Journal(tmp_path / "journal", "x")
    journal.restart()
    journal.record("a", "1", None)
    write, room = os.write, [10]

    def nearly_full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(OutOfSpace, match="journal: no space left on the device; free some"):
        journal.record("b", "2", None)
    monkeypatch.undo()
    journal.close()
    resumed = Journal(tmp_path / "journal", "x").resume()
    assert resumed == {"a": {"name": "a", "checksum": "1"}}


def test_a_journal_that_another_process_writes_is_left_as_it_is(tmp_path: Path) -> None:
    """Of processes that write together one may outlive the killed first one for a moment: its lines must stay."""
    alive = Journal(tmp_path / "journal-1", "x")
    alive.restart()
    alive.record("a", "1", None)
    with open(tmp_path / "journal-1", "ab") as file:
        file.write(b'{"name": "b"')  # as a reader may see a line that is being written
    before = (tmp_path / "journal-1").read_bytes()
    for begin in (Journal.restart, Journal.resume):
        with pytest.raises(OutputExists, match="another run is writing here"):
            begin(Journal(tmp_path / "journal-1", "x"))
        assert (tmp_path / "journal-1").read_bytes() == before
    alive.close()
    assert Journal(tmp_path / "journal-1", "x").resume() == {"a": {"name": "a", "checksum": "1"}}


def test_a_file_system_without_locks_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems answer; that nobody holds the output must not be told as if somebody did."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("mats.files.fcntl.flock", refuse)
    with pytest.raises(WorkFailed, match=r"cannot be locked \(No locks available\); an output on a local disk"):
        CheckpointWriter(tmp_path / "out", infos({"a": torch.ones(1)}), identity="x")
    with pytest.raises(WorkFailed, match="cannot be locked"):
        Journal(tmp_path / "journal", "x").restart()
