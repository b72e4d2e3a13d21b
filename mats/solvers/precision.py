"""How products are rounded: the arithmetic of an iteration, and torch's global switch for TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Arithmetic(NamedTuple):
    """How one run of conjugate gradients multiplies.

    Attributes:
        products: dtype of the factors.
        state: dtype of the iterates.
        floor: relative residual below which one run cannot go; refinement takes over there.
        narrow: products are coarser than float32, and refinement is the plan rather than the exception.
        tensor_float: allow TF32 products on a GPU.
        widened: factors stay in their dtype and are widened as they are used, one model at a time.
    """

    products: torch.dtype
    state: torch.dtype
    floor: float
    narrow: bool = False
    tensor_float: bool = False
    widened: bool = False


FLOAT32 = Arithmetic(torch.float32, torch.float32, 1e-6)
FLOAT64 = Arithmetic(torch.float64, torch.float64, 1e-14)
WIDENED = Arithmetic(torch.float64, torch.float64, 1e-14, widened=True)
TF32 = Arithmetic(torch.float32, torch.float32, 3e-3, narrow=True, tensor_float=True)
BFLOAT16 = Arithmetic(torch.bfloat16, torch.float32, 2e-2, narrow=True)


@contextmanager
def float32_products(*, tensor_float: bool) -> Iterator[None]:
    """Float32 products at full precision, or (on a GPU) through TF32, whatever the process had set before.

    TF32 keeps ten bits: the recurrence would go on to claim a convergence that stopped near 1e-3.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tensor_float else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
