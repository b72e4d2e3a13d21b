"""A checkpoint open for reading: names and shapes at once, tensors one at a time, content never all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol

import torch
import xxhash
from torch import Tensor

from mats.checkpoints.bytes import CHUNK_BYTES, SMALLEST_MAPPED, is_finite, memory_of
from mats.checkpoints.tensors import TensorInfo, dtype_name, natural_order
from mats.errors import InputsMismatch, NonFiniteWeights

Kind = Literal["model", "ia3", "lora"]


class TensorFile(Protocol):
    """One file of tensors, whatever its format."""

    path: Path
    infos: dict[str, TensorInfo]

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (1-D, contiguous, CPU, the stored dtype) with the elements of `name` from index `start` on."""

    def view(self, name: str) -> Tensor | None:
        """The whole tensor in memory that nobody else writes to, got without a copy; None where that cannot be."""

    def close(self) -> None:
        """Release the file."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: its file, its name there, and the shape under which the checkpoint shows it."""

    file: TensorFile
    name: str
    shape: tuple[int, ...]


class Checkpoint(AbstractContextManager["Checkpoint"]):
    """Named tensors on disk, read lazily. Made by `open_checkpoint`.

    Attributes:
        name: how messages and reports call it (folder name, file stem or hub id).
        path: the folder or the single file.
        kind: `model`, or an adapter: `ia3`, `lora`.
        tensors: name → declared dtype and shape, in natural order of names whatever the order on disk.
        config: `config.json` of a model, `adapter_config.json` of an adapter, None where there is none.
    """

    def __init__(
        self, name: str, path: Path, kind: Kind, stored: Mapping[str, Stored], config: dict[str, Any] | None
    ) -> None:
        self.name = name
        self.path = path
        self.kind: Kind = kind
        self.config = config
        self._stored = {key: stored[key] for key in sorted(stored, key=natural_order)}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {key: TensorInfo(key, at.file.infos[at.name].dtype, at.shape) for key, at in self._stored.items()}
        )
        self._digests: dict[str, bytes] = {}

    def read(self, name: str, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Read one tensor into fresh memory.

        Args:
            name: a key of `tensors`.
            dtype: what floating-point content is cast to (None: as stored). Other content keeps its dtype.
            device: where the result lives; it arrives there in chunks, never twice in host memory.

        Returns:
            A tensor that shares memory with nothing.

        Raises:
            NonFiniteWeights: NaN or infinity in it.
            InputsMismatch: no such name here.
            CheckpointCorrupt: the file was cut short since it was opened.
        """
        info = self._info(name)
        floating = info.dtype.is_floating_point
        wanted = dtype if dtype is not None and floating else info.dtype
        direct = wanted == info.dtype and torch.device(device).type == "cpu"
        if direct and info.nbytes < SMALLEST_MAPPED:
            return self._read_small(name, info)
        mapped = self._view(name) if direct else None
        target = torch.empty(info.shape, dtype=wanted, device=device) if mapped is None else mapped
        flat = target.view(-1)
        chunks = self._chunks(name, flat if direct else None) if mapped is None else _parts(flat)
        for start, chunk in chunks:
            if floating and not is_finite(chunk):
                raise self._non_finite(name, start, chunk)
            if not direct:
                flat[start : start + chunk.numel()].copy_(chunk)
        return target

    def fingerprint(self) -> str:
        """`xxh3_128:<hex>` of all (name, dtype, shape, bytes), the same for any shard layout and file format.

        Reads everything once; remembered while the checkpoint is open. Checks nothing about finiteness.
        """
        total = xxhash.xxh3_128()
        for name in sorted(self.tensors):
            info = self.tensors[name]
            total.update(f"{name}\0{dtype_name(info.dtype)}\0{list(info.shape)}\0".encode())
            total.update(self.digest(name))
        return f"xxh3_128:{total.hexdigest()}"

    def digest(self, name: str) -> bytes:
        """xxh3_128 of one tensor's bytes as stored (row-major, little-endian)."""
        if name not in self._digests:
            digest = xxhash.xxh3_128()
            for _, chunk in self._chunks(name, None):
                digest.update(memory_of(chunk))
            self._digests[name] = digest.digest()
        return self._digests[name]

    @cached_property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that hold one and the same tensor, judged by content; the first name of each is canonical.

        Only floating-point tensors count, and not constant ones: that two norms are all ones ties nothing.
        """
        from mats.checkpoints.ties import tied_groups  # the judge needs this class

        return tied_groups(self)

    def place(self, name: str) -> Stored:
        """Where a tensor lies, for a checkpoint that is composed of parts of others."""
        self._info(name)
        return self._stored[name]

    def sample(self, name: str, count: int = 64) -> bytes:
        """The first, middle and last `count` elements as bytes: equal tensors have equal samples."""
        info = self._info(name)
        if info.numel <= 3 * count:  # one read of everything costs less than three of parts
            whole = torch.empty(info.numel, dtype=info.dtype)
            self._load(name, 0, whole)
            return bytes(memory_of(whole))
        piece = torch.empty(count, dtype=info.dtype)
        result = b""
        for start in (0, (info.numel - count) // 2, info.numel - count):
            self._load(name, start, piece)
            result += bytes(memory_of(piece))
        return result

    def close(self) -> None:
        """Close all files; reading afterwards is an error. Closing twice is fine."""
        for file in {id(at.file): at.file for at in self._stored.values()}.values():
            file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name}: {self.kind}, {len(self.tensors)} tensors, {self.path}>"

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            nearest = get_close_matches(name, self.tensors, n=1)
            hint = f"; nearest: {nearest[0]}" if nearest else ""
            raise InputsMismatch(f"{self.path}: no tensor named {name}{hint}")
        return self.tensors[name]

    def _view(self, name: str) -> Tensor | None:
        at = self._stored[name]
        whole = at.file.view(at.name)
        return None if whole is None else whole.view(at.shape)

    def _load(self, name: str, start: int, out: Tensor) -> None:
        at = self._stored[name]
        at.file.load(at.name, start, out)

    def _read_small(self, name: str, info: TensorInfo) -> Tensor:
        """As `read` without a cast, in one piece: of many small tensors, each step is felt."""
        at = self._stored[name]
        flat = torch.empty(info.numel, dtype=info.dtype)
        at.file.load(at.name, 0, flat)
        if info.dtype.is_floating_point and not is_finite(flat):
            raise self._non_finite(name, 0, flat)
        return flat.view(info.shape)

    def _chunks(self, name: str, whole: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """(start, elements) of the flat content: parts of `whole` as they are filled, else of a scratch buffer."""
        info = self._info(name)
        step = max(1, CHUNK_BYTES // info.dtype.itemsize)
        buffer = torch.empty(min(step, info.numel), dtype=info.dtype) if whole is None else whole
        for start in range(0, info.numel, step):
            count = min(step, info.numel - start)
            chunk = buffer[start : start + count] if whole is not None else buffer[:count]
            self._load(name, start, chunk)
            yield start, chunk

    def _non_finite(self, name: str, start: int, chunk: Tensor) -> NonFiniteWeights:
        first = int((~torch.isfinite(chunk.float())).nonzero()[0])
        return NonFiniteWeights(
            f"{self._stored[name].file.path}: tensor {name} holds {float(chunk[first])} at flat index {start + first};"
            " expected finite weights"
        )


def _parts(flat: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(start, elements) of a tensor that is already in memory, in parts that fit a cache."""
    step = max(1, CHUNK_BYTES // flat.element_size())
    for start in range(0, flat.numel(), step):
        yield start, flat[start : start + step]
