"""Partial sums on disk, so that a collection killed at any moment goes on from its last checkpoint.

Each partition of a collection has one file in the hidden sibling `.<store>.partial`: the encoded sums, and in the
file's own metadata how many batches are done and the identity of the work. One file, one rename: sums and count can
never disagree. A partial of another identity is discarded, never mixed in: its sums belong to other weights, other
examples or other batches, and nothing in the present request could use them; the caller is told what differs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mats.errors import StoreCorrupt
from mats.files import explain_os_error, fsync_folder
from mats.store.manifest import differences
from mats.store.packing import unpack
from mats.store.records import Sums
from mats.store.sources import InMemory, SourceParts
from mats.store.tensor_file import DTYPE_CODES, Encoded, read_header, read_tensor, write_tensor_file

STATE_KEY = "partial"


@dataclass(frozen=True)
class Resumed:
    """What `PartialSums.load` found.

    Attributes:
        sums: The sums of the batches done, or None when there is nothing to go on from.
        batches_done: How many batches they cover.
        discarded: Why a file that was there is not used, or None.
    """

    sums: Sums | None
    batches_done: int
    discarded: str | None = None


class PartialSums:
    """The partial sums of one partition of the store that will be `folder`.

    Args:
        folder: Final folder of the store; the file lies in its sibling `.<name>.partial`.
        partition: Index of the partition.
        rank: Of several processes, the one whose sums these are; those of the first may be of all.
    """

    def __init__(self, folder: str | Path, partition: int = 0, rank: int = 0) -> None:
        part = f"partition-{partition:05d}" + (f"-rank-{rank}" if rank else "")
        self.path = partial_folder(folder) / f"{part}.safetensors"

    def save(self, sums: Sums, batches_done: int, identity: Mapping[str, Any]) -> None:
        """Replace the file by `sums` after `batches_done` batches; atomic and durable.

        Raises:
            OutOfSpace: the disk is full; the file of before stays.
            NonFiniteStatistic: a sum holds NaN or infinity; the file of before stays.
        """
        state = {
            "identity": dict(identity),
            "batches_done": batches_done,
            "encoded": {},
            "tokens": sums.tokens,
            "fourth_moments": sums.fourth_moments,
            "example_ids": sums.example_ids,
        }
        source = InMemory(sums)
        state["encoded"] = {key: [entry.encoding, list(entry.shape)] for key, entry in source.entries.items()}
        metadata = {STATE_KEY: json.dumps(state, sort_keys=True, allow_nan=False)}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensor_file(temporary, source.entries, source.read, metadata)
            os.replace(temporary, self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise explain_os_error(error, self.path) from error

    def load(self, identity: Mapping[str, Any]) -> Resumed:
        """The sums to go on from, if there are any of this very `identity`; others are deleted.

        Floats come back to the bit: matrices were stored by their upper triangle and are symmetric again.
        """
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):  # of a run that was killed as it saved
            left.unlink(missing_ok=True)
        if not self.path.exists():
            return Resumed(None, 0)
        try:
            source = PartialSource(self.path)
            found, wanted = source.state["identity"], json.loads(json.dumps(dict(identity)))
            if found != wanted:
                told = "; ".join(differences(found, wanted))
                return self._discard(f"partial sums of other work were there and are discarded ({told})")
            return Resumed(source.dense(), int(source.state["batches_done"]))
        except (StoreCorrupt, KeyError, TypeError, ValueError) as error:
            return self._discard(f"partial sums that cannot be read are discarded ({error})")

    def source(self) -> PartialSource:
        """The encoded sums, read key by key, for `write_store`.

        Raises:
            StoreCorrupt: the file is missing or damaged.
        """
        return PartialSource(self.path)

    def _discard(self, reason: str) -> Resumed:
        self.path.unlink(missing_ok=True)
        return Resumed(None, 0, reason)


class PartialSource:
    """A partial file as a source of encoded sums.

    Raises:
        StoreCorrupt: missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        header = read_header(path)
        names = {code: name for name, code in DTYPE_CODES.items()}
        try:
            self.state: dict[str, Any] = json.loads(header["__metadata__"][STATE_KEY])
            self.entries = {
                key: Encoded(encoding, tuple(shape), names[header[key]["dtype"]])  # type: ignore[arg-type]
                for key, (encoding, shape) in self.state["encoded"].items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"{path}: not a file of partial sums ({error})") from error

    def read(self, key: str) -> Tensor:
        """The encoded tensor of `key`."""
        return read_tensor(self._path, key)

    def parts(self) -> SourceParts:
        """Tokens, fourth moments and example ids."""
        return SourceParts(self.state["tokens"], self.state["fourth_moments"], self.state["example_ids"])

    def dense(self) -> Sums:
        """All sums in memory, as collection holds them."""
        tensors = {}
        for key, entry in self.entries.items():
            stored = self.read(key)
            tensors[key] = unpack(stored, entry.shape[0]) if entry.encoding == "upper" else stored.clone()
        return Sums(tensors, self.state["tokens"], self.state["fourth_moments"], self.state["example_ids"])


def partial_folder(folder: str | Path) -> Path:
    """Where the partial sums of the store `folder` lie."""
    final = Path(folder)
    return final.with_name(f".{final.name}.partial")


def remove_partial(folder: str | Path) -> None:
    """Delete the partial sums of a store that is complete."""
    shutil.rmtree(partial_folder(folder), ignore_errors=True)
