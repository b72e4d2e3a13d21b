"""How a sum lies in a shard: the parts of each encoding, and the way there and back.

`dense` and `upper` hold a sum exactly. The others are lossy and come from `mats metadata compress` alone; whatever a
codec keeps, a matrix that it gives back is positive semi-definite if the one that it got was:

* `root_bfloat16`, `root_float8`: the Cholesky root, rounded (`mats.store.root_codec`);
* `block_diagonal:K`: the exact blocks of K rows along the diagonal, which are principal submatrices;
* `low_rank:R`: the R leading eigenpairs, and the exact diagonal of what is left (`mats.store.matrix_codecs`);
* `dense_bfloat16`, `dense_float8`: for sums of squares entry by entry (`mats.store.entry_codecs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PLAIN = ("dense", "upper")
ENCODING_PATTERN = (
    r"(dense|upper|dense_bfloat16|dense_float8|root_bfloat16|root_float8|(block_diagonal|low_rank):[1-9]\d*)"
)
PART_MARK = "#"  # between a key and the name of one of its parts; module names have none

STORED_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
}
LARGEST_FLOAT8 = torch.finfo(torch.float8_e4m3fn).max
STORED_CODES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float8": "F8_E4M3"}


@dataclass(frozen=True)
class Part:
    """One tensor of an encoded sum: its shape, and its dtype by the name in `STORED_DTYPES`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return STORED_DTYPES[self.dtype].itemsize * torch.Size(self.shape).numel()


class Codec(Protocol):
    """A lossy encoding. Parts are named by what follows the key: "" for the first, `#diagonal` and so on."""

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """What a sum of this dense shape is stored as."""

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """The parts of a dense float sum."""

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The dense float32 sum, on the device of the parts."""

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The diagonal of a matrix, or the sum itself where it is one; float32."""


def codec_of(encoding: str) -> Codec:
    """The codec of a lossy encoding."""
    from mats.store.entry_codecs import RoundedEntries, ScaledRoots
    from mats.store.matrix_codecs import BlockDiagonal, LowRank
    from mats.store.root_codec import RoundedRoot

    name, _, number = encoding.partition(":")
    if name in ("root_bfloat16", "root_float8"):
        return RoundedRoot("bfloat16" if name == "root_bfloat16" else "float8")
    if name == "dense_bfloat16":
        return RoundedEntries()
    if name == "dense_float8":
        return ScaledRoots()
    return BlockDiagonal(int(number)) if name == "block_diagonal" else LowRank(int(number))


def key_of(name: str) -> tuple[str, str]:
    """(key, part) of the name of a stored tensor: `a/b#diagonal` → (`a/b`, `#diagonal`)."""
    key, mark, part = name.partition(PART_MARK)
    return key, mark + part
