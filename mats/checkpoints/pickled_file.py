"""Reading one `.bin` or `.pt` file, through `torch.load(weights_only=True)` alone: no code in it can run.

Files in the zip format (torch ≥ 1.6) are memory-mapped, so only what is read is loaded. Older files have no such
layout: their tensors stay in memory while the file is open.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints.bytes import map_privately, read_exactly
from mats.checkpoints.tensors import TensorInfo
from mats.errors import CheckpointCorrupt
from mats.files import explain_os_error

ZIP_SIGNATURE = b"PK\x03\x04"


class PickledFile:
    """One open `.bin` or `.pt` file that holds a flat dictionary of tensors.

    Raises:
        CheckpointCorrupt: unreadable, holding anything but tensors, or asking for code (a forbidden global).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open(path)
        try:
            mapped = os.pread(self._descriptor, 4, 0) == ZIP_SIGNATURE
            self._tensors = _tensors_of(path, load_weights_only(path, mapped=mapped))
            self._mappings = list(_mappings_of(self._descriptor)) if mapped else []
        except BaseException:
            self.close()
            raise
        self.infos = {
            name: TensorInfo(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors.items()
        }

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (1-D, contiguous, CPU, the stored dtype) with the elements of `name` from index `start` on."""
        tensor = self._tensors[name]
        if not tensor.is_contiguous():  # a strided view: its elements in row-major order
            out.copy_(_row_major_range(tensor, start, out.numel()))
            return
        source = tensor.reshape(-1)[start : start + out.numel()]
        offset = self._file_offset(source)
        if offset is None:
            out.copy_(source)
        else:
            read_exactly(self._descriptor, self.path, name, out, offset)

    def view(self, name: str) -> Tensor | None:
        """The whole tensor, uncopied and private (see `map_privately`), or None where that cannot be done."""
        tensor = self._tensors[name]
        offset = self._file_offset(tensor) if tensor.is_contiguous() else None
        return None if offset is None else map_privately(self._descriptor, self.path, self.infos[name], offset)

    def close(self) -> None:
        """Let go of the file and its mapping; closing twice is fine."""
        self._tensors = {}
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _file_offset(self, source: Tensor) -> int | None:
        """Where in the file a mapped tensor lies, so that it can be read without touching a page of the mapping.

        Touched pages would count as memory of this process until the file is closed.
        """
        address = source.data_ptr()
        for first, last, offset in self._mappings:
            if first <= address and address + source.numel() * source.element_size() <= last:
                return offset + address - first
        return None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise explain_os_error(error, path) from error


def load_weights_only(path: Path, *, mapped: bool = False) -> Any:
    """What a torch file holds, on the CPU; files that ask for code are refused.

    Args:
        path: the file.
        mapped: leave tensors in the file until they are read (zip format alone).

    Raises:
        CheckpointCorrupt: damaged, or asking for code.
        WorkFailed: not readable.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = _naming_line(str(error))
        raise CheckpointCorrupt(f"{path}: not a file of tensors alone, so it is not loaded: {reason}") from error
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        # A damaged pickle can fail in any of these ways, depending on which byte is wrong.
        raise CheckpointCorrupt(f"{path}: not a readable torch file: {_naming_line(str(error))}") from error


def _naming_line(text: str) -> str:
    """The line of a torch error that names the cause; its advice runs over many lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (causes or lines or ["damaged"])[0].split(". ")[0][:160]


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointCorrupt(f"{path}: holds a {type(content).__name__}; expected a dictionary of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointCorrupt(f"{path}: {name!r} is a {type(value).__name__}; expected only tensors by name")
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointCorrupt(f"{path}: tensor {name} is sparse or quantised; expected dense tensors")
    return {name: value.detach() for name, value in content.items()}


def _row_major_range(tensor: Tensor, start: int, count: int) -> Tensor:
    """Elements [start, start + count) of a strided tensor in row-major order, copying only the rows they lie in."""
    row = tensor.numel() // tensor.shape[0]
    first, last = start // row, -(-(start + count) // row)
    return tensor[first:last].reshape(-1)[start - first * row : start - first * row + count]


def _mappings_of(descriptor: int) -> Iterator[tuple[int, int, int]]:
    """(first address, last address, file offset) of each mapping of an open file in this process; none off Linux."""
    table = Path("/proc/self/maps")
    if not table.exists():
        return
    inode = str(os.fstat(descriptor).st_ino)
    path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[4] == inode and fields[5] == path:
            first, last = fields[0].split("-")
            yield int(first, 16), int(last, 16), int(fields[2], 16)
