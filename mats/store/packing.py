"""Symmetric matrices as their upper triangle, row by row: n (n + 1) / 2 numbers instead of n².

Row i of the triangle is M[i, i:], so packing and unpacking copy slices and need no index tensors (which for
n = 4096 would be 134 MB); the mirror half is written block by block, to stay in the cache. On a CPU the slices are
NumPy's, whose overhead is a tenth of torch's (n = 4096 on one core: 13 ms instead of 75 for the rows).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mats.errors import RequestError, ShapeMismatch

BLOCK = 64  # rows mirrored at a time on a CPU: a block of fp32 (16 KiB) and its transpose fit the first-level cache
DEVICE_BLOCK = 512  # elsewhere, where each block is a kernel
SYMMETRY_BLOCK = 256
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
    # Blocks small enough that their differences reuse memory; page faults of larger ones cost more than the arithmetic.
    for start in range(0, n, SYMMETRY_BLOCK):
        rows = slice(start, min(start + SYMMETRY_BLOCK, n))
        for across in range(start, n, SYMMETRY_BLOCK):
            columns = slice(across, min(across + SYMMETRY_BLOCK, n))
            difference = float((matrix[rows, columns] - matrix[columns, rows].T).abs().max())
            if difference > bound:
                raise RequestError(
                    f"{where}: not symmetric, entries across the diagonal differ by up to {difference:.3g} in rows "
                    f"{rows.start}..{rows.stop - 1} (allowed {bound:.3g})"
                )


def pack(matrix: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The upper triangle of a symmetric matrix, row by row.

    Args:
        matrix: [n, n], any dtype and device. What lies below the diagonal is not read.
        out: Where to put the result; fresh memory when None (touching that costs as much as the copying).

    Returns:
        [n (n + 1) / 2], same dtype and device.

    Raises:
        RequestError: `matrix` is not square.

    Example:
        >>> pack(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor([1., 2., 3.])
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise RequestError(f"pack: shape {list(matrix.shape)}; a symmetric matrix [n, n] is packed")
    n = matrix.shape[0]
    packed = matrix.new_empty(packed_size(n)) if out is None else out
    assert packed.shape == (packed_size(n),), packed.shape
    source, target = _arrays(matrix, packed)
    start = 0
    for row in range(n):
        stop = start + n - row
        target[start:stop] = source[row, row:]
        start = stop
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
    _fill_triangle(packed, matrix)
    mirror_(matrix)
    return matrix


def unpack_triangle(packed: Tensor, n: int) -> Tensor:
    """The upper triangular matrix [n, n] whose triangle, row by row, is `packed`; 0 below the diagonal."""
    assert packed.shape == (packed_size(n),), packed.shape
    matrix = packed.new_zeros(n, n)
    _fill_triangle(packed, matrix)
    return matrix


def _fill_triangle(packed: Tensor, matrix: Tensor) -> None:
    """Write the upper triangle of `matrix`; what lies below is left as it is."""
    source, target = _arrays(packed, matrix)
    n, start = len(matrix), 0
    for row in range(n):
        stop = start + n - row
        target[row, row:] = source[start:stop]
        start = stop


def packed_diagonal(packed: Tensor, n: int) -> Tensor:
    """The diagonal [n] of a packed triangle, without unpacking it."""
    rows = torch.arange(n, device=packed.device)
    return packed[rows * n - rows * (rows - 1) // 2]


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """The tensors for slicing: as NumPy arrays over the same memory where that is possible."""
    if all(tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16 for tensor in tensors):
        return tuple(tensor.detach().numpy() for tensor in tensors)
    return tensors


def mirror_(matrix: Tensor) -> None:
    """Copy the upper triangle of `matrix` onto its lower one, in place."""
    n = matrix.shape[0]
    block = BLOCK if matrix.device.type == "cpu" else DEVICE_BLOCK
    (array,) = _arrays(matrix)
    for start in range(0, n, block):
        stop = min(start + block, n)
        corner = matrix[start:stop, start:stop]
        below_diagonal = torch.ones_like(corner, dtype=torch.bool).tril(-1)
        corner.copy_(torch.where(below_diagonal, corner.T, corner))  # a sum of halves would turn -0.0 into 0.0
        for below in range(stop, n, block):
            end = min(below + block, n)
            array[below:end, start:stop] = array[start:stop, below:end].T
