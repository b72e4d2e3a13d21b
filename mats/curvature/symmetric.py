"""matrix += rowsᵀ rows, of which one triangle is enough.

On a CPU, BLAS `syrk` forms one triangle only, half the arithmetic of a full product (measured on one core, float32,
384 to 3072 columns: 1.7 to 2 times faster from 100 rows up). It is called by its address, which SciPy publishes for
this use (`scipy.linalg.cython_blas`): SciPy's own wrapper copies rows and matrices that are parts of larger ones.
Elsewhere a plain product adds to the full matrix, in float32 even when its factors are bfloat16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from scipy.linalg import cython_blas
from torch import Tensor

# Below this many columns a call of syrk costs more than it saves.
_SYRK_COLUMNS = 96

_INTEGER = ctypes.POINTER(ctypes.c_int)


def add_outer_products_(matrix: Tensor, rows: Tensor) -> None:
    """matrix += rowsᵀ rows, at least in the lower triangle.

    Args:
        matrix: [d, d], float32 or float64, columns next to each other; may be part of a larger matrix.
        rows: [n, d], of the matrix's dtype; on a GPU also a lower precision, multiplied with float32 accumulation.
            Where the matrix lies elsewhere, the product is formed where the rows are.
    """
    if rows.shape[0] == 0:
        return
    if matrix.device != rows.device:
        product = torch.zeros(matrix.shape, dtype=matrix.dtype, device=rows.device)
        add_outer_products_(product, rows)
        matrix += product.to(matrix.device)
    elif matrix.device.type == "cpu" and matrix.shape[0] >= _SYRK_COLUMNS:
        _syrk_(matrix, rows if rows.stride(1) == 1 and rows.stride(0) >= rows.shape[1] else rows.contiguous())
    elif rows.dtype == matrix.dtype:
        matrix.addmm_(rows.T, rows)
    elif rows.device.type == "cuda" and rows.dtype in (torch.bfloat16, torch.float16) and matrix.dtype == torch.float32:
        matrix += _low_precision_product(rows)
    else:
        rows = rows.to(matrix.dtype)
        matrix.addmm_(rows.T, rows)


def _low_precision_product(rows: Tensor) -> Tensor:
    """rowsᵀ rows in float32 from bfloat16 or float16 factors, on tensor cores where torch offers it (2.8 and later)."""
    try:
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        wide = rows.float()
        return wide.T @ wide


def _syrk_(matrix: Tensor, rows: Tensor) -> None:
    """Lower triangle of matrix += rowsᵀ rows on the CPU; both have unit stride along columns."""
    assert matrix.dtype == rows.dtype
    assert matrix.stride(1) == 1
    number = ctypes.c_float if matrix.dtype == torch.float32 else ctypes.c_double
    count, size = rows.shape
    # Fortran reads rows as columns: "upper, not transposed" there is "lower, transposed" here.
    _syrk(matrix.dtype)(
        b"U",
        b"N",
        ctypes.c_int(size),
        ctypes.c_int(count),
        number(1.0),
        rows.data_ptr(),
        ctypes.c_int(rows.stride(0) if count > 1 else size),
        number(1.0),
        matrix.data_ptr(),
        ctypes.c_int(matrix.stride(0)),
    )


@cache
def _syrk(dtype: torch.dtype) -> Callable[..., None]:
    """BLAS ssyrk or dsyrk as a function of C; it lets other threads run meanwhile."""
    name, number = ("ssyrk", ctypes.c_float) if dtype == torch.float32 else ("dsyrk", ctypes.c_double)
    scalar = ctypes.POINTER(number)
    address = _address(cython_blas.__pyx_capi__[name])
    arguments: list[Any] = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        _INTEGER,
        _INTEGER,
        scalar,
        ctypes.c_void_p,
        _INTEGER,
        scalar,
    ]
    return ctypes.CFUNCTYPE(None, *arguments, ctypes.c_void_p, _INTEGER)(address)


def _address(capsule: Any) -> int:
    """The address in a capsule, which holds its function's signature as its name."""
    name_of, pointer_of = ctypes.pythonapi["PyCapsule_GetName"], ctypes.pythonapi["PyCapsule_GetPointer"]
    name_of.argtypes, name_of.restype = [ctypes.py_object], ctypes.c_char_p
    pointer_of.argtypes, pointer_of.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return int(pointer_of(capsule, name_of(capsule)))
