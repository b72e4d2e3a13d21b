"""Writing a checkpoint tensor by tensor, in any order, so that a kill at any moment costs at most one tensor.

All files lie in `<parent>/.<name>.partial/`: `content/` is the folder that will be published, `journal` says which
tensors are finished. Shards have their final size and header from the start, so a tensor has a place before it has
a value. Publishing renames `content/` to the output's name; before that moment nothing has that name.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import xxhash
from torch import Tensor

from mats.checkpoints.bytes import CHUNK_BYTES, is_finite, memory_of
from mats.checkpoints.companions import reconcile_config
from mats.checkpoints.journal import Journal
from mats.checkpoints.layout import plan_layout
from mats.checkpoints.partial import (
    check_space,
    checksum_range,
    flush_tree,
    lock_folder,
    open_shard,
    partial_folder,
    remove,
    remove_leftover,
    shards_are_whole,
    write_at,
)
from mats.checkpoints.tensors import TensorInfo, dtype_name
from mats.errors import InputsMismatch, NonFiniteWeights, OutputExists, ShapeMismatch, WorkFailed
from mats.files import explain_os_error, publish_folder, write_bytes_atomically

DEFAULT_SHARD_BYTES = 5_000_000_000


class CheckpointWriter(AbstractContextManager["CheckpointWriter"]):
    """Random-access, resumable writer of a folder of safetensors shards.

    Args:
        output: the folder to be made. It appears, complete, when `publish` returns.
        tensors: everything that will be written, in the order in which it shall lie on disk.
        identity: what the bytes depend on (a digest of inputs and settings). Partial work of the same identity and
            the same tensors is taken up again; any other partial work is discarded.
        max_shard_bytes: limit of one file.
        overwrite: replace an existing output, at `publish` and not before.
        weights_name: `model`, or `adapter_model` for a PEFT adapter.
        part: which of several processes this is that write one output together, each tensor by one of them. Part 0
            owns the folder: it is made first, takes up what is there, tells the others what is `held`, `join`s what
            they wrote, and publishes. The others are made after it and `adopt` what it holds.

    Attributes:
        output: as given.
        folder: where companion files (config, tokenizer, report) go. It is emptied of them when work is resumed.
        resumed: whether partial work was found and taken up.

    Raises:
        OutputExists: the output exists and `overwrite` is false, or another process writes it.
        OutOfSpace: the device has not enough free space for all of it.
        RequestError: the list of tensors cannot be written (see `plan_layout`).

    Threads may call `write` at the same time. Leaving the context without `publish` keeps the partial work.
    """

    def __init__(
        self,
        output: Path,
        tensors: Sequence[TensorInfo],
        *,
        identity: str,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        overwrite: bool = False,
        weights_name: str = "model",
        part: int = 0,
    ) -> None:
        self.output = Path(output)
        self.part = part
        self._layout = plan_layout(tensors, max_shard_bytes, weights_name)
        self._overwrite = overwrite
        self._partial = partial_folder(self.output)
        self.folder = self._partial / "content"
        self._identity = f"{identity}\n{self._layout.identity()}"
        self._journal = self._journal_of(part)
        self._guard = threading.Lock()
        self._descriptors: list[int] = []
        self._finished: dict[str, None] = {}
        self._notes: dict[str, Any] = {}
        self.resumed = False
        self._lock = -1
        if part == 0:
            self._refuse_existing()
            self._lock = lock_folder(self._partial)
        try:
            if part == 0:
                self._prepare()
            else:
                self._open_shards()
                self._journal.restart()
        except BaseException:
            self.abandon()
            raise

    @property
    def done(self) -> Set[str]:
        """Names of the tensors that are finished, those of an earlier run included; a live view, cheap to ask."""
        return self._finished.keys()

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes given with finished tensors, those of an earlier run included."""
        return MappingProxyType(self._notes)

    def write(self, name: str, tensor: Tensor, *, note: Any = None) -> None:
        """Write one tensor, cast to its declared dtype; from here on it survives a kill.

        Args:
            name: a declared name that is not yet in `done`.
            tensor: any device, any strides, the declared shape.
            note: a JSON value to be kept with it (`notes`) for a run that resumes, such as a certificate.

        Raises:
            ShapeMismatch: not the declared shape.
            InputsMismatch: a name that was not declared, or was written before.
            NonFiniteWeights: NaN or infinity, also when only the cast made it so.
            OutOfSpace: the device is full; what was written before is kept.
        """
        if name in self._finished:
            raise InputsMismatch(f"{self.output}: tensor {name} was written before; rewrite() replaces it")
        self._put(name, tensor, note)

    def rewrite(self, name: str, tensor: Tensor, *, note: Any = None) -> None:
        """Replace a tensor written before. A kill in between leaves it unwritten: a resumed run writes it again.

        Raises:
            InputsMismatch: it was not written before. Otherwise as `write`.
        """
        if name not in self._finished:
            raise InputsMismatch(f"{self.output}: tensor {name} was not written before; write() comes first")
        self._put(name, tensor, note)

    def held(self) -> dict[str, Any]:
        """What was taken up, tensor → its note or None: what the other parts must know before they begin."""
        return {name: self._notes.get(name) for name in self._finished}

    def adopt(self, held: Mapping[str, Any]) -> None:
        """Count as finished what part 0 took up."""
        for name, note in held.items():
            self._count(name, note)

    def join(self, parts: int) -> None:
        """Count as finished what the other parts wrote, as their journals say; they must be done writing."""
        for part in range(1, parts):
            for name, entry in self._read_journal(part).items():
                self._count(name, entry.get("note"))

    def publish(self) -> Path:
        """Give the finished folder its name, after everything in it is on the disk.

        Returns:
            The output path.

        Raises:
            WorkFailed: tensors are missing.
            OutputExists: something took the output's name meanwhile, and `overwrite` is false.
        """
        missing = [name for name in self._layout.infos if name not in self._finished]
        if missing:
            raise WorkFailed(
                f"{self.output}: {len(missing)} of {len(self._layout.infos)} tensors are not written, the first is"
                f" {missing[0]}"
            )
        if len(self._layout.shards) > 1:
            write_bytes_atomically(self.folder / self._layout.index_name, self._layout.index().encode())
        reconcile_config(self.folder)
        flush_tree(self.folder)
        publish_folder(self.folder, self.output, overwrite=self._overwrite)
        shutil.rmtree(self._partial, ignore_errors=True)
        self.abandon()
        return self.output

    def abandon(self) -> None:
        """Close without publishing; partial work stays for a later run. Calling it twice is fine."""
        self._journal.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _refuse_existing(self) -> None:
        exists = self.output.exists() or self.output.is_symlink()
        if exists and not self._overwrite:
            remove_leftover(self._partial, self.folder)
            raise OutputExists(f"{self.output}: exists already; choose another output or pass --overwrite")

    def _prepare(self) -> None:
        """Take up partial work of this identity, or start from nothing."""
        entries = self._journal.resume()
        if entries is None or not shards_are_whole(self.folder, self._layout.shards):
            self._clear()
            entries = None
        check_space(self.output, self.folder, self._layout)
        self._open_shards()
        if entries is None:
            self._journal.restart()
        else:
            self.resumed = True
            self._remove_companions()
            self._take_up(entries)
            self._take_over()

    def _open_shards(self) -> None:
        try:
            for shard in self._layout.shards:
                self._descriptors.append(open_shard(self.folder, shard))
        except OSError as error:
            raise explain_os_error(error, self.folder) from error

    def _journal_of(self, part: int) -> Journal:
        return Journal(self._partial / (f"journal-{part}" if part else "journal"), self._identity)

    def _read_journal(self, part: int) -> dict[str, dict[str, Any]]:
        found = self._journal_of(part).read()
        return {} if found is None else found[0]

    def _take_over(self) -> None:
        """What other processes of an earlier run had finished goes into this one's journal, and theirs go."""
        for path in sorted(self._partial.glob("journal-*")):
            part = int(path.name.removeprefix("journal-"))
            journal = self._journal_of(part)
            found = journal.resume()
            if found is not None:
                for name in self._take_up(found):
                    self._journal.record(name, found[name]["checksum"], found[name].get("note"))
                journal.close()
            remove(path)

    def _take_up(self, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Believe a journal where the bytes still match it; returns the names of those tensors."""
        believed = []
        for name, entry in entries.items():
            if name not in self._layout.infos:
                continue
            position = self._layout.shard_of[name]
            offset = self._layout.shards[position].offsets[name]
            size = self._layout.infos[name].nbytes
            if checksum_range(self._descriptors[position], offset, size) == entry.get("checksum"):
                self._count(name, entry.get("note"))
                believed.append(name)
        return believed

    def _count(self, name: str, note: Any) -> None:
        """A tensor is finished."""
        self._finished[name] = None
        self._notes.pop(name, None)
        if note is not None:
            self._notes[name] = note

    def _clear(self) -> None:
        self._journal.close()
        for entry in self._partial.iterdir():
            remove(entry)
        self.folder.mkdir()

    def _remove_companions(self) -> None:
        """What an earlier run put beside the shards may be half written; whoever put it there does so again."""
        shards = {shard.file_name for shard in self._layout.shards}
        for entry in self.folder.iterdir():
            if entry.name not in shards:
                remove(entry)

    def _put(self, name: str, tensor: Tensor, note: Any) -> None:
        info = self._layout.infos.get(name)
        if info is None:
            raise InputsMismatch(f"{self.output}: tensor {name} was not declared as part of this output")
        if tuple(tensor.shape) != info.shape:
            raise ShapeMismatch(
                f"{self.output}: tensor {name} has shape {list(tensor.shape)}, declared was {list(info.shape)}"
            )
        checksum = self._write_bytes(name, tensor.detach().cpu().reshape(-1))
        with self._guard:
            self._journal.record(name, checksum, note)
            self._count(name, note)

    def _write_bytes(self, name: str, flat: Tensor) -> str:
        """Cast, check, hash and write in chunks, so that each is in the cache for all four; returns the checksum."""
        position, dtype = self._layout.shard_of[name], self._layout.infos[name].dtype
        shard, descriptor = self._layout.shards[position], self._descriptors[position]
        offset = shard.offsets[name]
        digest = xxhash.xxh3_128()
        step = max(1, CHUNK_BYTES // flat.element_size())
        for start in range(0, flat.numel(), step):
            chunk = flat[start : start + step].to(dtype)
            if chunk.dtype.is_floating_point and not is_finite(chunk):
                raise NonFiniteWeights(
                    f"{self.output}: tensor {name} as {dtype_name(chunk.dtype)} has NaN or infinity near flat index"
                    f" {start}; expected finite weights that fit this dtype"
                )
            view = memory_of(chunk)
            digest.update(view)
            try:
                write_at(descriptor, view, offset)
            except OSError as error:
                raise explain_os_error(error, self.folder / shard.file_name) from error
            offset += view.nbytes
        return digest.hexdigest()
