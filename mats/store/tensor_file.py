"""One safetensors file of encoded sums: written tensor by tensor with deterministic bytes, read lazily.

The library's own `save_file` wants all tensors in memory and orders `__metadata__` by a hash map; here the header is
computed from shapes alone, the tensors follow one at a time, and equal sums give equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mats.errors import NonFiniteStatistic, RequestError, StoreCorrupt
from mats.files import explain_os_error
from mats.store.manifest import DtypeName, Encoding, FileRecord
from mats.store.packing import packed_size

HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer headers
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
DTYPE_CODES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Encoded:
    """How one sum lies in a file: `shape` is that of the dense tensor, whatever the encoding."""

    encoding: Encoding
    shape: tuple[int, ...]
    dtype: DtypeName

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        return (packed_size(self.shape[0]),) if self.encoding == "upper" else self.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return DTYPES[self.dtype].itemsize * torch.Size(self.stored_shape).numel()


def dtype_name(key: str, dtype: torch.dtype) -> DtypeName:
    """The manifest's name of a storable dtype.

    Raises:
        RequestError: sums are stored as float32 or float64 only.
    """
    if dtype == torch.float32:
        return "float32"
    if dtype == torch.float64:
        return "float64"
    raise RequestError(f"{key}: a sum of dtype {dtype}; sums are float32 or float64")


def storage_order(entries: Mapping[str, Encoded]) -> list[str]:
    """Keys by falling item size, then name: every tensor stays aligned, and the order depends on nothing else."""
    return sorted(entries, key=lambda key: (-DTYPES[entries[key].dtype].itemsize, key))


def write_tensor_file(
    path: Path, entries: Mapping[str, Encoded], read: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> FileRecord:
    """Write the encoded sums `entries` to `path`, one in memory at a time, and make them durable.

    Args:
        path: Written in place: choose a name that nobody reads before it is renamed.
        entries: What to write; the header is computed from it before the first tensor is read.
        read: The encoded tensor of a key, in the stored shape and dtype.
        metadata: The file's `__metadata__`.

    Returns:
        Length and checksum, taken from the bytes on their way out.

    Raises:
        NonFiniteStatistic: a sum holds NaN or infinity; the file is then removed.
        OutOfSpace: the disk is full.
    """
    order = storage_order(entries)
    digest, written = xxhash.xxh3_128(), 0
    try:
        with open(path, "wb") as file:
            for chunk in _chunks(_header(order, entries, metadata), order, entries, read):
                file.write(chunk)
                digest.update(chunk)
                written += chunk.nbytes
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise explain_os_error(error, path) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileRecord(written, f"xxh3_128:{digest.hexdigest()}")


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file whose length agrees with it.

    Raises:
        StoreCorrupt: missing, garbage, truncated or too long.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise StoreCorrupt(f"{path}: {size} bytes, its header alone claims {length}; truncated or not a shard")
            header = json.loads(file.read(length))
            end = max((item["data_offsets"][1] for key, item in header.items() if key != "__metadata__"), default=0)
    except FileNotFoundError as error:
        raise StoreCorrupt(f"{path}: missing; the store is incomplete without it") from error
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise StoreCorrupt(f"{path}: its header is not a safetensors header ({error})") from error
    if size != 8 + length + end:
        raise StoreCorrupt(f"{path}: {size} bytes, its header promises {8 + length + end}; truncated or appended to")
    return dict(header)


def read_tensor(path: Path, key: str) -> Tensor:
    """One encoded sum, mapped from the file: its pages are read when they are touched.

    Raises:
        StoreCorrupt: the file cannot be read or has no such tensor.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise StoreCorrupt(f"{path}: {key}: {error}") from error


def check_finite(key: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity, in one pass that allocates nothing.

    Raises:
        NonFiniteStatistic: with the extreme values found.
    """
    if tensor.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(tensor))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise NonFiniteStatistic(f"{key}: the sum ranges from {low} to {high}; every sum must be finite")


def _header(order: Iterable[str], entries: Mapping[str, Encoded], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for key in order:
        entry = entries[key]
        end = offset + entry.nbytes
        header[key] = {
            "dtype": DTYPE_CODES[entry.dtype],
            "shape": list(entry.stored_shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8, as the format asks
    return len(text).to_bytes(8, "little") + text


def _chunks(
    header: bytes, order: Iterable[str], entries: Mapping[str, Encoded], read: Callable[[str], Tensor]
) -> Iterable[memoryview]:
    yield memoryview(header)
    for key in order:
        entry, tensor = entries[key], read(key)
        assert tuple(tensor.shape) == entry.stored_shape, (key, tensor.shape, entry)
        assert tensor.dtype == DTYPES[entry.dtype], (key, tensor.dtype, entry)
        check_finite(key, tensor)
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().flatten().numpy().data.cast("B")
