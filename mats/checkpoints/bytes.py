"""A tensor's memory as bytes, for reading into it, writing from it and hashing it without a copy."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from mats.errors import CheckpointCorrupt
from mats.files import explain_os_error

CHUNK_BYTES = 1 << 22  # fits a second-level cache together with its destination; measured equal from 1 to 16 MiB


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


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
            raise CheckpointCorrupt(f"{path}: ends inside tensor {name}; the file was cut short while open")
        view, offset = view[count:], offset + count


def is_finite(values: Tensor) -> bool:
    """Whether a floating-point tensor holds neither NaN nor infinity.

    One sum settles the normal case, since NaN and infinity survive a sum; a sum can also overflow on finite values,
    so only a non-finite sum is followed by the exact check.
    """
    if values.dtype.itemsize == 1:  # float8 has no arithmetic of its own
        values = values.float()
    total = values.sum(dtype=None if values.dtype.itemsize >= 4 else torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())
