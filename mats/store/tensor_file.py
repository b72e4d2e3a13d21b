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
from mats.store.codecs import PLAIN, STORED_CODES, STORED_DTYPES, Codec, Part, codec_of
from mats.store.manifest import DtypeName, Encoding, FileRecord
from mats.store.packing import packed_size

HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer headers
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
DTYPE_CODES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Encoded:
    """How one sum lies in a file: `shape` is that of the dense tensor, whatever the encoding; `dtype` what it gives."""

    encoding: Encoding
    shape: tuple[int, ...]
    dtype: DtypeName

    @property
    def is_plain(self) -> bool:
        """Whether the sum lies there exactly, as one tensor: `dense` or `upper`."""
        return self.encoding in PLAIN

    @property
    def codec(self) -> Codec:
        """The way back from a lossy encoding."""
        return codec_of(self.encoding)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the (first) tensor in the file."""
        return self.parts[""].shape

    @property
    def parts(self) -> dict[str, Part]:
        """What follows the key in a stored tensor's name → its shape and dtype."""
        if self.is_plain:
            return {"": Part((packed_size(self.shape[0]),) if self.encoding == "upper" else self.shape, self.dtype)}
        return self.codec.parts(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(part.nbytes for part in self.parts.values())


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


def stored_tensors(entries: Mapping[str, Encoded]) -> dict[str, Part]:
    """All tensors of a file by name, in the order in which they lie there."""
    found = {key + name: part for key, entry in entries.items() for name, part in entry.parts.items()}
    return dict(sorted(found.items(), key=lambda item: (-STORED_DTYPES[item[1].dtype].itemsize, item[0])))


def write_tensor_file(
    path: Path, entries: Mapping[str, Encoded], read: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> FileRecord:
    """Write the encoded sums `entries` to `path`, one in memory at a time, and make them durable.

    Args:
        path: Written in place: choose a name that nobody reads before it is renamed.
        entries: What to write; the header is computed from it before the first tensor is read.
        read: The stored tensor of a name (the key, or one of its parts), in the stored shape and dtype.
        metadata: The file's `__metadata__`.

    Returns:
        Length and checksum, taken from the bytes on their way out.

    Raises:
        NonFiniteStatistic: a sum holds NaN or infinity; the file is then removed.
        OutOfSpace: the disk is full.
    """
    stored = stored_tensors(entries)
    digest, written = xxhash.xxh3_128(), 0
    try:
        with open(path, "wb") as file:
            for chunk in _chunks(_header(stored, metadata), stored, read):
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
    """Refuse NaN and infinity, in one pass that (but for the smaller dtypes) allocates nothing.

    Raises:
        NonFiniteStatistic: with the extreme values found.
    """
    if tensor.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(tensor.float() if tensor.itemsize < 4 else tensor))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise NonFiniteStatistic(f"{key}: the sum ranges from {low} to {high}; every sum must be finite")


def _header(stored: Mapping[str, Part], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, part in stored.items():
        end = offset + part.nbytes
        header[name] = {"dtype": STORED_CODES[part.dtype], "shape": list(part.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8, as the format asks
    return len(text).to_bytes(8, "little") + text


def _chunks(header: bytes, stored: Mapping[str, Part], read: Callable[[str], Tensor]) -> Iterable[memoryview]:
    yield memoryview(header)
    for name, part in stored.items():
        tensor = read(name)
        assert tuple(tensor.shape) == part.shape, (name, tensor.shape, part)
        assert tensor.dtype == STORED_DTYPES[part.dtype], (name, tensor.dtype, part)
        check_finite(name, tensor)
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data.cast("B")
