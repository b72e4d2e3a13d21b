"""Reading a metadata store: checked when opened, its sums read one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mats.errors import FingerprintMismatch, RequestError, StoreCorrupt
from mats.files import checksum_file
from mats.store.codecs import key_of
from mats.store.hub import local_store
from mats.store.manifest import MANIFEST_NAME, Manifest, TensorRecord, read_manifest
from mats.store.packing import packed_diagonal, unpack
from mats.store.tensor_file import DTYPES, Encoded, check_finite, read_header, read_tensor

Place = Literal["site", "layer"]


class MetadataStore:
    """A store on disk. Holds no file open; a tensor lives in memory only while the caller keeps it.

    Attributes:
        path: The folder.
        manifest: What it contains.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.entries: Mapping[str, Encoded] = {
            key: Encoded(record.encoding, record.shape, record.dtype) for key, record in manifest.tensors.items()
        }

    def __repr__(self) -> str:
        return f"MetadataStore({str(self.path)!r}, {len(self)} sums over {self.examples} examples)"

    def __len__(self) -> int:
        return len(self.manifest.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.manifest.tensors))

    @property
    def examples(self) -> int:
        """N, the number of examples summed: sums ÷ N are means over examples."""
        return self.manifest.examples

    @property
    def proxy(self) -> str | None:
        """Which stand-in for curvature this is, made without data; None for what was measured."""
        kind = self.manifest.estimator.get("proxy")
        return None if kind is None else str(kind)

    @property
    def position(self) -> float:
        """Where the model stood while it was measured, on the line from its base (0) to its own weights (1)."""
        return float(self.manifest.estimator.get("position", 1.0))

    @property
    def fingerprint(self) -> str:
        """`xxh3_128:<hex>` of the manifest, which holds the checksum of every shard; run.json does not count."""
        return checksum_file(self.path / MANIFEST_NAME)

    def has(self, key: str) -> bool:
        """Whether the sum `<statistic>/<name>` was measured."""
        return key in self.manifest.tensors

    def record(self, key: str) -> TensorRecord:
        """Where and how a sum is stored; `shape` is that of the dense tensor. Reads no tensor.

        Raises:
            RequestError: there is no such sum; the nearest key is named.
        """
        found = self.manifest.tensors.get(key)
        if found is None:
            raise RequestError(f"{self.path}: no sum {key!r}{suggestion(key, self.manifest.tensors)}")
        return found

    def read(self, key: str) -> Tensor:
        """The stored tensor as it lies in the file, mapped: its pages are read when touched.

        Args:
            key: `<statistic>/<name>`, or with `#` and a part of it where the encoding is lossy.

        Raises:
            RequestError: there is no such sum.
            StoreCorrupt: its shard cannot be read.
        """
        return read_tensor(self.path / self.record(key_of(key)[0]).file, key)

    def _parts(self, key: str) -> dict[str, Tensor]:
        """All stored tensors of one lossy sum, each checked."""
        found = {part: self.read(key + part) for part in self.entries[key].parts}
        for part, tensor in found.items():
            check_finite(f"{self.path}: {key}{part}", tensor)
        return found

    def sum(self, key: str, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Tensor:
        """One sum over examples, dense, in fresh memory.

        Args:
            key: `<statistic>/<name>`.
            dtype: Float dtype wanted; as stored when None.
            device: Where it is wanted; the packed half travels there and is unpacked there.

        Returns:
            The tensor that was measured, or what a lossy encoding kept of it; a sum, not a mean.

        Raises:
            RequestError: there is no such sum.
            StoreCorrupt: its shard cannot be read.
            NonFiniteStatistic: it holds NaN or infinity.
        """
        record = self.record(key)
        if not self.entries[key].is_plain:
            parts = {part: tensor.to(device) for part, tensor in self._parts(key).items()}
            decoded = self.entries[key].codec.decode(parts, record.shape)
            return decoded.to(dtype or DTYPES[record.dtype])
        stored = self.read(key)
        check_finite(f"{self.path}: {key}", stored)
        moved = stored.to(device=device, dtype=dtype or stored.dtype)
        if record.encoding == "upper":
            return unpack(moved, record.shape[0])
        return moved.clone() if moved.data_ptr() == stored.data_ptr() else moved

    def diagonal(self, key: str) -> Tensor:
        """The diagonal [n] of a symmetric sum (or a dense sum itself, which is one), without unpacking it.

        Raises:
            RequestError, StoreCorrupt: as `sum`.
        """
        record = self.record(key)
        if not self.entries[key].is_plain:
            return self.entries[key].codec.diagonal(self._parts(key), record.shape)
        stored = self.read(key)
        return packed_diagonal(stored, record.shape[0]) if record.encoding == "upper" else stored.clone()

    def tokens(self, kind: Place, name: str) -> float:
        """Rows summed at a site (input side) or a layer (output side).

        Raises:
            RequestError: nothing was counted under that name.
        """
        return self._scalar("tokens", self.manifest.tokens, kind, name)

    def fourth_moment(self, kind: Place, name: str) -> float:
        """Σ‖x‖⁴ over the rows of a site or layer (for Ledoit–Wolf shrinkage).

        Raises:
            RequestError: it was not measured under that name.
        """
        return self._scalar("fourth moment", self.manifest.fourth_moments, kind, name)

    def check_model(self, fingerprint: str, name: str) -> None:
        """Refuse a store that was measured on other weights.

        Args:
            fingerprint: `Checkpoint.fingerprint()` of the model about to be merged.
            name: Its name, for the message.

        Raises:
            FingerprintMismatch: with both names and fingerprints.
        """
        ours = self.manifest.model
        if ours.fingerprint != fingerprint:
            raise FingerprintMismatch(
                f"{self.path}: measured on {ours.name!r} ({ours.source}, {ours.fingerprint}), not on {name!r} "
                f"({fingerprint}); run save-metadata for {name!r}"
            )

    def _scalar(self, what: str, values: Mapping[str, float], kind: Place, name: str) -> float:
        key = f"{kind}:{name}"
        if key not in values:
            raise RequestError(f"{self.path}: no {what} for {key!r}{suggestion(key, values)}")
        return values[key]


def open_store(folder: str | Path, *, verify: bool = False) -> MetadataStore:
    """Open a store: the manifest is read and checked, and every shard is there in its full length.

    Args:
        folder: The store's folder, or a hub id (`mats.store.hub`).
        verify: Also compare the checksum of every shard (reads all bytes).

    Raises:
        RequestError: no such folder (the nearest sibling is named), no such store on the hub, or not a store.
        StoreCorrupt: manifest or a shard missing, truncated, garbage, or (with `verify`) altered.
        InputsMismatch: written by another version of the format.
    """
    path = local_store(folder)
    if path.is_file():
        raise RequestError(
            f"{path}: is a file; the folder of a metadata store, which holds {MANIFEST_NAME}, would be right"
        )
    if not path.is_dir():
        siblings = [item.name for item in path.parent.iterdir() if item.is_dir()] if path.parent.is_dir() else []
        raise RequestError(f"{path}: no such metadata store{suggestion(path.name, siblings)}")
    if not (path / MANIFEST_NAME).exists() and not any(path.glob("*-of-*.safetensors")):
        raise RequestError(f"{path}: not a metadata store, there is no {MANIFEST_NAME} in it")
    manifest = read_manifest(path / MANIFEST_NAME)
    check_records(path, manifest)
    for name, record in manifest.files.items():
        read_header(path / name)
        size = (path / name).stat().st_size
        if size != record.bytes:
            raise StoreCorrupt(f"{path / name}: {size} bytes, the manifest says {record.bytes}")
        if verify and (found := checksum_file(path / name)) != record.checksum:
            raise StoreCorrupt(f"{path / name}: checksum {found}, the manifest says {record.checksum}")
    return MetadataStore(path, manifest)


def check_records(path: Path, manifest: Manifest) -> None:
    """Refuse a manifest whose tensors lie in files it does not list, or outside the folder.

    Raises:
        StoreCorrupt: with the first such name.
    """
    for name in manifest.files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise StoreCorrupt(f"{path / MANIFEST_NAME}: file {name!r}; shards lie in the store's own folder")
    for key, record in manifest.tensors.items():
        if record.file not in manifest.files:
            raise StoreCorrupt(f"{path / MANIFEST_NAME}: {key} lies in {record.file!r}, which is not among its files")
        square = len(record.shape) == 2 and record.shape[0] == record.shape[1]
        if not record.encoding.startswith("dense") and not square:
            raise StoreCorrupt(
                f"{path / MANIFEST_NAME}: {key}: packed with shape {list(record.shape)}; [n, n] expected"
            )


def suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    """`; did you mean …?` with the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
