"""Symmetric matrices as their upper triangle, row by row: n (n + 1) / 2 numbers instead of n².

Row i of the triangle is M[i, i:], so packing and unpacking copy slices and need no index tensors (which for
n = 4096 would be 134 MB); the mirror half is written block by block, to stay in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mats.errors import RequestError, ShapeMismatch

BLOCK = 256  # rows mirrored at a time; a block of fp32 (256 KiB) fits the second-level cache
SYMMETRY_TOLERANCE = 1e-4  # of the largest diagonal entry; a Gram matrix from `gemm` is symmetric to about 1e-6


def packed_size(n: int) -> int:
    """How many numbers the upper triangle of an n × n matrix holds."""
    return n * (n + 1) // 2


def matrix_size(length: int) -> int:
    """The n of which `packed_size(n)` is `length`.

    Raises:
        ShapeMismatch: no n has a triangle of that many numbers.
    """
    n = int(((8 * length + 1) ** 0.5 - 1) / 2)
    for candidate in (n - 1, n, n + 1):  # the root is rounded for lengths above 2**52
        if candidate >= 0 and packed_size(candidate) == length:
            return candidate
    raise ShapeMismatch(f"packed triangle: {length} numbers, which is n (n + 1) / 2 for no whole n")


def check_symmetric(matrix: Tensor, where: str = "matrix") -> None:
    """Refuse a matrix that is not square or not symmetric to rounding (one pass over it).

    The bound is relative to the largest diagonal entry, which bounds every entry of a positive semi-definite matrix.

    Raises:
        RequestError: with the largest difference found.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise RequestError(f"{where}: shape {list(matrix.shape)}; a symmetric matrix [n, n] is packed")
    n = matrix.shape[0]
    if n == 0:
        return
    bound = SYMMETRY_TOLERANCE * float(matrix.diagonal().abs().max())
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        difference = float((matrix[start:stop, start:] - matrix[start:, start:stop].T).abs().max())
        if difference > bound:
            raise RequestError(
                f"{where}: not symmetric, entries across the diagonal differ by up to {difference:.3g} in rows "
                f"{start}..{stop - 1} (allowed {bound:.3g})"
            )


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix, row by row.

    Args:
        matrix: [n, n], any dtype and device. What lies below the diagonal is not read.

    Returns:
        [n (n + 1) / 2], same dtype and device, fresh memory.

    Raises:
        RequestError: `matrix` is not square.

    Example:
        >>> pack(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor([1., 2., 3.])
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise RequestError(f"pack: shape {list(matrix.shape)}; a symmetric matrix [n, n] is packed")
    n = matrix.shape[0]
    packed = matrix.new_empty(packed_size(n))
    for row, target in zip(matrix.unbind(0), _rows(packed, n), strict=True):
        target.copy_(row[n - target.shape[0] :])
    return packed


def unpack(packed: Tensor, n: int | None = None) -> Tensor:
    """The dense symmetric matrix of a packed triangle; the two halves are equal to the bit.

    Args:
        packed: [n (n + 1) / 2].
        n: Size of the matrix; derived from the length when None.

    Returns:
        [n, n], same dtype and device, fresh memory.

    Raises:
        ShapeMismatch: the length does not fit `n`.
    """
    if n is None:
        n = matrix_size(packed.numel())
    if packed.ndim != 1 or packed.numel() != packed_size(n):
        raise ShapeMismatch(
            f"unpack: shape {list(packed.shape)}; the triangle of an [{n}, {n}] matrix is [{packed_size(n)}]"
        )
    matrix = packed.new_empty(n, n)
    for row, source in zip(matrix.unbind(0), _rows(packed, n), strict=True):
        row[n - source.shape[0] :].copy_(source)
    return _mirror_(matrix)


def packed_diagonal(packed: Tensor, n: int) -> Tensor:
    """The diagonal [n] of a packed triangle, without unpacking it."""
    rows = torch.arange(n, device=packed.device)
    return packed[rows * n - rows * (rows - 1) // 2]


def _rows(packed: Tensor, n: int) -> tuple[Tensor, ...]:
    """Views of the n rows of a packed triangle, lengths n, n − 1, …, 1."""
    return packed.split(list(range(n, 0, -1))) if n else ()


def _mirror_(matrix: Tensor) -> Tensor:
    """Copy the upper triangle of `matrix` onto its lower one, in place."""
    n = matrix.shape[0]
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block = matrix[start:stop, start:stop]
        below_diagonal = torch.ones_like(block, dtype=torch.bool).tril(-1)
        block.copy_(torch.where(below_diagonal, block.T, block))  # a sum of halves would turn -0.0 into 0.0
        for below in range(stop, n, BLOCK):
            end = min(below + BLOCK, n)
            matrix[below:end, start:stop] = matrix[start:stop, below:end].T
    return matrix
