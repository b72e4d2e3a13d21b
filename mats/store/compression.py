"""Smaller copies of a store: every sum read, encoded and written, one at a time, and what that lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mats.errors import RequestError
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.progress import Progress
from mats.store.codecs import key_of
from mats.store.manifest import statistic_of
from mats.store.reading import MetadataStore, open_store
from mats.store.tensor_file import Encoded
from mats.store.writing import MAX_SHARD_BYTES, write_store

FORMATS = ("bfloat16", "float8", "block_diagonal:K", "low_rank:R")


@dataclass(frozen=True)
class Loss:
    """What compression did to the sums of one statistic.

    Attributes:
        statistic: `input_gram` and so on.
        sums: how many there are.
        bytes_before, bytes_after: of all of them.
        median, worst: relative Frobenius errors of single sums.
        worst_name: where the worst one is.
    """

    statistic: str
    sums: int
    bytes_before: int
    bytes_after: int
    median: float
    worst: float
    worst_name: str


@dataclass(frozen=True)
class Compressed:
    """What `compress_store` has written: where, bytes of all sums, the error of all together, and by statistic."""

    folder: Path
    bytes_before: int
    bytes_after: int
    relative_error: float
    statistics: tuple[Loss, ...]


def compress_store(
    store: str | Path,
    output: str | Path,
    form: str,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> Compressed:
    """Write a smaller copy of a store, which every reader of stores opens.

    Args:
        store: What to compress; it stays.
        output: The copy.
        form: `bfloat16`, `float8`, `block_diagonal:K` or `low_rank:R`. The last two leave entrywise sums as they are;
            all leave token counts, and any sum that would not shrink.
        overwrite: Replace an existing `output`.
        max_shard_bytes: As `write_store`.
        progress: Hears of the shards.

    Raises:
        RequestError: an unknown format; the store is compressed already, or it would be replaced by its copy.
        OutputExists, OutOfSpace, StoreCorrupt: as `write_store` and `open_store`.
    """
    check_format(form)
    refuse_existing(Path(output), overwrite=overwrite)
    refuse_replacing_inputs(Path(output), (store,))
    opened = open_store(store)
    if opened.manifest.compression is not None:
        found = opened.manifest.compression.get("format")
        raise RequestError(f"{store}: compressed already ({found}); the exact store would be right")
    source = CompressingSource(opened, form)
    compression = {"format": form, "of": opened.fingerprint, "relative_error": source.errors}
    manifest = replace(opened.manifest, tensors={}, files={}, compression=compression)  # errors are filled in below
    write_store(
        Path(output),
        manifest,
        source,
        {"compressed": {"format": form}},
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )
    return source.result(Path(output))


def check_format(form: str) -> tuple[str, int]:
    """The name and the number of a format (0 where it has none).

    Raises:
        RequestError: no such format.
    """
    found = re.fullmatch(r"(bfloat16|float8)|(block_diagonal|low_rank):([1-9]\d*)", form)
    if found is None:
        raise RequestError(
            f"format {form!r}: one of {', '.join(FORMATS)} would be right, K and R whole numbers above 0"
        )
    return (found[1], 0) if found[1] else (found[2], int(found[3]))


def encoding_for(form: str, entry: Encoded) -> Encoded:
    """How a format stores a sum: as it is, where it has no codec for it, or where that would not be smaller."""
    name, number = check_format(form)
    if entry.encoding == "upper":
        wanted = f"root_{name}" if name in ("bfloat16", "float8") else f"{name}:{number}"
    elif name in ("bfloat16", "float8") and entry.dtype == "float32":
        wanted = f"dense_{name}"  # float64 ones are token counts: few numbers, and whole ones
    else:
        return entry
    encoded = Encoded(wanted, entry.shape, "float32")
    return encoded if encoded.nbytes < entry.nbytes else entry


@dataclass
class CompressingSource:
    """The sums of a store, each encoded when its first part is read.

    Attributes:
        errors: key → relative Frobenius error, of the sums that have been read.
    """

    store: MetadataStore
    form: str
    errors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries: Mapping[str, Encoded] = {
            key: encoding_for(self.form, entry) for key, entry in self.store.entries.items()
        }
        self._squares: dict[str, tuple[float, float]] = {}
        self._held: tuple[str, dict[str, Tensor]] = ("", {})

    def read(self, name: str) -> Tensor:
        """One stored tensor; the parts of a sum are encoded together, and kept until another sum is asked for."""
        key, part = key_of(name)
        if self.entries[key].is_plain:
            self._note(key, 0.0, None)
            return self.store.read(key)
        if self._held[0] != key:
            self._held = ("", {})
            self._held = (key, self._encode(key))
        return self._held[1][part]

    def _encode(self, key: str) -> dict[str, Tensor]:
        entry = self.entries[key]
        dense = self.store.sum(key)
        parts = entry.codec.encode(dense)
        if key not in self._squares:
            kept = entry.codec.decode(parts, entry.shape).sub_(dense)
            self._note(key, _square(kept), dense)
        return parts

    def _note(self, key: str, lost: float, dense: Tensor | None) -> None:
        """Remember ‖error‖² and ‖sum‖² of one sum."""
        if key not in self._squares:
            whole = _square(self.store.sum(key) if dense is None else dense)
            self._squares[key] = (lost, whole)
            self.errors[key] = (lost / whole) ** 0.5 if whole > 0 else 0.0

    def result(self, folder: Path) -> Compressed:
        """What was written, after everything has been read."""
        statistics = sorted({statistic_of(key) for key in self.entries})
        lost, whole = (sum(square[at] for square in self._squares.values()) for at in (0, 1))
        return Compressed(
            folder,
            sum(entry.nbytes for entry in self.store.entries.values()),
            sum(entry.nbytes for entry in self.entries.values()),
            (lost / whole) ** 0.5 if whole > 0 else 0.0,
            tuple(self._loss(statistic) for statistic in statistics),
        )

    def _loss(self, statistic: str) -> Loss:
        keys = [key for key in self.entries if statistic_of(key) == statistic]
        worst = max(keys, key=lambda key: self.errors[key])
        return Loss(
            statistic,
            len(keys),
            sum(self.store.entries[key].nbytes for key in keys),
            sum(self.entries[key].nbytes for key in keys),
            median(self.errors[key] for key in keys),
            self.errors[worst],
            worst.partition("/")[2],
        )


def compression_line(compression: Mapping[str, Any]) -> str:
    """A store's loss in words, for `inspect` and the card."""
    errors = compression.get("relative_error", {})
    if not errors:
        return str(compression.get("format"))
    worst = max(errors, key=lambda key: errors[key])
    return f"{compression['format']}, relative error at most {errors[worst]:.2g} (at {worst})"


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
