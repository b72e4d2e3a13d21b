"""The one matrix layout of the mathematics, X [out, in], and how each stored tensor is brought there and back.

A bias that rides along as the homogeneous coordinate is the last column: X = [W | b].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Layout = Literal["out_in", "in_out", "conv", "vector", "flat"]


def canonical_shape(shape: tuple[int, ...], layout: Layout, *, bias: bool = False) -> tuple[int, int]:
    """[out, in] (+1 column with `bias`) of a stored tensor.

    `out_in` is a Linear weight; `in_out` its transpose on disk (Conv1D, Embedding [vocab = in, dim = out]); `conv`
    [out, c, kh, kw] unfolds to [out, c·kh·kw]; `vector` and `flat` are one row.
    """
    numel = 1
    for size in shape:
        numel *= size
    if layout in ("vector", "flat"):
        return 1, numel
    if layout == "in_out":
        return shape[1], shape[0] + int(bias)
    return shape[0], numel // max(shape[0], 1) + int(bias)


def to_canonical(weight: Tensor, layout: Layout, bias: Tensor | None = None) -> Tensor:
    """The stored `weight` (and `bias` [out], as the last column) as X [out, in (+1)]; a view where it can be."""
    rows, columns = canonical_shape(tuple(weight.shape), layout)
    matrix = weight.T if layout == "in_out" else weight.reshape(rows, columns)
    if bias is None:
        return matrix
    return torch.cat([matrix, bias.reshape(-1, 1).to(matrix)], dim=1)


def from_canonical(
    matrix: Tensor, shape: tuple[int, ...], layout: Layout, *, bias: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Inverse of `to_canonical`: the weight in its stored shape, and the bias column [out] when there is one."""
    column = matrix[:, -1].contiguous() if bias else None
    body = matrix[:, :-1] if bias else matrix
    weight = body.T if layout == "in_out" else body.reshape(shape)
    return weight.contiguous(), column
