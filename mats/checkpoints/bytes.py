"""A tensor's memory as bytes, for reading into it, writing from it and hashing it without a copy."""

from __future__ import annotations

import math
import os
import sys
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mats.checkpoints.tensors import TensorInfo
from mats.errors import CheckpointCorrupt
from mats.files import explain_os_error

CHUNK_BYTES = 1 << 22  # fits a second-level cache together with its destination; measured equal from 1 to 16 MiB
SMALLEST_MAPPED = 1 << 16  # bytes; below, a copy is cheaper than a mapping


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def read_exactly(descriptor: int, path: Path, name: str, out: Tensor, offset: int) -> None:
    """Fill `out` (contiguous, CPU) with the bytes of a file from `offset` on.

    Raises:
        CheckpointCorrupt: the file ends before `out` is full; `path` and `name` are for the message.
    """
    view = memory_of(out)
    while view.nbytes:
        try:
            count = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise explain_os_error(error, path) from error
        if count == 0:
            raise cut_short(path, name)
        view, offset = view[count:], offset + count


def map_privately(descriptor: int, path: Path, info: TensorInfo, offset: int) -> Tensor | None:
    """A tensor whose pages are those of the file until they are written to, and private from then on.

    Each call makes a mapping of its own, so the result behaves as fresh memory; no byte is copied to get it. Copying
    instead costs a page fault for each 4 KiB of new memory: averaging four BERT-base took 1.35 s of processor time
    so, and takes 0.80 s. The file must not shrink while the tensor lives.

    Returns:
        The tensor, or None where this cannot be done: small, misaligned, not on Linux, or the kernel refuses.

    Raises:
        CheckpointCorrupt: the file ends before the tensor does.
    """
    size = info.dtype.itemsize
    end = offset + info.nbytes
    if info.nbytes < SMALLEST_MAPPED or offset % size or not sys.platform.startswith("linux"):
        return None
    if os.fstat(descriptor).st_size < end:
        raise cut_short(path, info.name)
    try:
        storage = torch.UntypedStorage.from_file(f"/proc/self/fd/{descriptor}", False, end)
    except RuntimeError:  # too many mappings, or a limit on address space
        return None
    assert isinstance(storage, torch.UntypedStorage)
    return torch.empty(0, dtype=info.dtype).set_(storage, offset // size, info.shape, _row_major(info.shape))


def cut_short(path: Path, name: str) -> CheckpointCorrupt:
    """The error for a file that was whole when it was opened."""
    return CheckpointCorrupt(f"{path}: ends inside tensor {name}; the file was cut short while open")


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_finite(values: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity.

    One sum settles the normal case, since NaN and infinity survive a sum; a sum can also overflow on finite values,
    so only a non-finite sum is followed by the exact check.
    """
    if values.dtype.itemsize == 1:  # float8 has no arithmetic of its own
        values = values.float()
    total = values.sum(dtype=None if values.dtype.itemsize >= 4 else torch.float32)
    return math.isfinite(total.item()) or bool(torch.isfinite(values).all())
