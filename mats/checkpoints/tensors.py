"""What a tensor on disk is (name, dtype, shape), the safetensors dtype codes, and the order of names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}
SAFETENSORS_CODES: dict[torch.dtype, str] = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}


_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header declares it; nothing of its content is read to know this."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @cached_property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar (shape `()`)."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the content, without any padding."""
        return self.numel * self.dtype.itemsize


def dtype_name(dtype: torch.dtype) -> str:
    """`"float32"` for `torch.float32`: how a dtype is written in configs, fingerprints and messages."""
    return str(dtype).removeprefix("torch.")


def natural_order(name: str) -> str:
    """Sort key under which `layer.2` comes before `layer.10`, so that neighbours in a model are neighbours on disk.

    A number becomes a character that tells its length, then its digits: the longer is the larger, and both come before
    any other character. One string compares in a fraction of the time that a list of parts takes.
    """
    return _NUMBER.sub(_with_its_length, name)


def _with_its_length(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return chr(len(digits)) + digits
