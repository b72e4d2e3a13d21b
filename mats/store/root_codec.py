"""A Gram matrix by its rounded Cholesky root: half or a quarter of the bytes, positive semi-definite by construction.

With d the diagonal and C = diag(d)^-½ A diag(d)^-½ its correlation form, C = Rᵀ R for an upper triangular R whose
columns have length 1. R is rounded; reading gives the columns their length back (√d_i, so that the diagonal is exact)
and multiplies. Rounding A itself, entry by entry, by a relative u would move every eigenvalue of C by up to about
2 u √n · rms(C): the weak directions drown, and eigenvalues turn negative. Rounding the root adds u² Σ_i x_i² to xᵀ C x
and a term that vanishes with xᵀ C x, so weak directions stay weak. (Measured on real Grams: docs/metadata.md.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mats.store.codecs import LARGEST_FLOAT8, STORED_DTYPES, Part
from mats.store.packing import mirror_, pack, packed_size, unpack_triangle

LARGEST_CODE = {"bfloat16": 1.0, "float8": LARGEST_FLOAT8}  # columns are scaled so that their largest entry is this
BLOCK = 256  # rows of the product made at a time
JITTER = 1e-7  # first addition to the diagonal of C; float32 Grams are singular to about this
JITTER_STEP = 8.0


class RoundedRoot:
    """The packed upper triangle of the root, columns scaled to their largest entry, and the float32 diagonal."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """See `Codec.parts`."""
        return {"": Part((packed_size(shape[0]),), self._dtype), "#diagonal": Part((shape[0],), "float32")}

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        diagonal = dense.diagonal().float()
        root = correlation_root(dense)
        largest = root.abs().amax(dim=0).clamp_(min=torch.finfo(torch.float32).tiny)
        scaled = (root * (LARGEST_CODE[self._dtype] / largest)).float()
        return {"": pack(scaled).to(STORED_DTYPES[self._dtype]), "#diagonal": diagonal.clone()}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.decode`."""
        diagonal = parts["#diagonal"]
        root = unpack_triangle(parts[""].float(), shape[0])
        lengths = torch.linalg.vector_norm(root, dim=0)
        root.mul_(torch.where(lengths > 0, diagonal.sqrt() / lengths, 0.0))
        matrix = gram_of_triangle(root)
        matrix.diagonal().copy_(diagonal)
        return matrix

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """See `Codec.diagonal`; exact."""
        return parts["#diagonal"].clone()


def gram_of_triangle(root: Tensor) -> Tensor:
    """Rᵀ R for an upper triangular R [n, n] in n³ ÷ 3 operations (a plain product: 2 n³), symmetric to the bit."""
    matrix = torch.empty_like(root)
    for start in range(0, len(root), BLOCK):
        stop = min(start + BLOCK, len(root))
        torch.matmul(root[:stop, start:stop].mT, root[:stop, start:], out=matrix[start:stop, start:])
    mirror_(matrix)
    return matrix


def correlation_root(dense: Tensor) -> Tensor:
    """Upper triangular R [n, n] in float64 with Rᵀ R = C, the correlation form, up to the jitter that C needed.

    A row of A that is zero gets the identity's, and comes back as zero with its diagonal. The jitter is the least of
    1e-7, 8e-7 … with which a Cholesky factorisation exists: a Gram of fewer rows than columns is singular.
    """
    matrix = dense.double()
    scale = matrix.diagonal().clamp(min=0).sqrt()
    matrix = matrix / torch.where(scale > 0, scale, 1.0)
    matrix /= torch.where(scale > 0, scale, 1.0)[:, None]
    jitter, before = JITTER, 0.0
    matrix.diagonal().fill_(1.0)
    while True:
        matrix.diagonal().add_(jitter - before)
        root, failed = torch.linalg.cholesky_ex(matrix, upper=True)
        if int(failed) == 0:
            return root
        jitter, before = jitter * JITTER_STEP, jitter
