"""Reading one safetensors file: a strict look at its header, then exact ranges of its bytes.

Parts of a tensor are read with `preadv` straight into their destination; a whole tensor can be mapped instead. The
file is never mapped as a whole and for good: every page touched would count as memory of this process to the end.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from mats.checkpoints.bytes import map_privately, read_exactly
from mats.checkpoints.tensors import SAFETENSORS_DTYPES, TensorInfo
from mats.errors import CheckpointCorrupt, RequestError
from mats.files import explain_os_error

LARGEST_HEADER = 100_000_000  # bytes; the limit of the format's reference implementation


class SafetensorsFile:
    """One open safetensors file.

    Args:
        path: the file.

    Raises:
        CheckpointCorrupt: the header is unreadable, contradicts itself, or does not fit the file's size.
        RequestError: a dtype that this program does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise explain_os_error(error, path) from error
        try:
            header, self._data_start = _read_header(path, self._descriptor)
            self.infos, self._offsets = _parse_header(path, header)
            self._check_size()
        except BaseException:
            self.close()
            raise

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (1-D, contiguous, CPU, the stored dtype) with the elements of `name` from index `start` on."""
        offset = self._data_start + self._offsets[name] + start * out.dtype.itemsize
        read_exactly(self._descriptor, self.path, name, out, offset)

    def view(self, name: str) -> Tensor | None:
        """The whole tensor, uncopied and private (see `map_privately`), or None where that cannot be done."""
        offset = self._data_start + self._offsets[name]
        return map_privately(self._descriptor, self.path, self.infos[name], offset)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _check_size(self) -> None:
        """The tensors must cover the data exactly: no hole, no overlap, no missing end."""
        position = 0
        for name, offset in sorted(self._offsets.items(), key=lambda item: (item[1], self.infos[item[0]].nbytes)):
            if offset != position:
                raise CheckpointCorrupt(f"{self.path}: tensor {name} starts at byte {offset}, expected {position}")
            position += self.infos[name].nbytes
        expected, actual = self._data_start + position, os.fstat(self._descriptor).st_size
        if actual != expected:
            problem = "truncated" if actual < expected else "too long"
            raise CheckpointCorrupt(f"{self.path}: {problem}: {actual} bytes where its header describes {expected}")


def _read_header(path: Path, descriptor: int) -> tuple[bytes, int]:
    """The header's JSON text and the position of the first data byte."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
        raise CheckpointCorrupt(
            f"{path}: not a whole safetensors file: {size} bytes, and the first 8 announce a header of {length}"
        )
    return os.pread(descriptor, length, 8), 8 + length


def _parse_header(path: Path, header: bytes) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    """Declared tensors and their first byte, relative to the start of the data."""
    try:
        entries = json.loads(header, object_pairs_hook=_refuse_double_keys)
        if not isinstance(entries, dict):
            raise ValueError(f"expected an object, got {type(entries).__name__}")
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointCorrupt(f"{path}: unreadable safetensors header: {error}") from error
    infos: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            infos[name], offsets[name] = _parse_entry(path, name, entry)
    return infos, offsets


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    try:
        code, shape = entry["dtype"], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        numbers = (*shape, first, last)
        if set(map(type, numbers)) != {int} or min(numbers) < 0:
            raise ValueError("shape and data_offsets are non-negative integers")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorrupt(f"{path}: header entry of tensor {name} is malformed: {error}") from error
    if code not in SAFETENSORS_DTYPES:
        known = ", ".join(SAFETENSORS_DTYPES)
        raise RequestError(f"{path}: tensor {name} has dtype {code}, which is not supported; supported: {known}")
    info = TensorInfo(name, SAFETENSORS_DTYPES[code], shape)
    if last - first != info.nbytes:
        raise CheckpointCorrupt(f"{path}: tensor {name} spans {last - first} bytes, its shape needs {info.nbytes}")
    return info, first


def _refuse_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)} occurs twice")
    return result
