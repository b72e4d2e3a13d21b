"""Rows of unequal length as one rectangular tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOT_SCORED = -100  # the label value that losses skip, as everywhere in PyTorch and transformers


def pad_rows(rows: Sequence[Sequence[int]], value: int, *, side: str = "right") -> Tensor:
    """Int64 [B, T], T the longest row's length (at least 1), filled up with `value` on one side."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    padded = torch.full((len(rows), width), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        padded[index, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


def real_positions(rows: Sequence[Sequence[int]], *, side: str = "right") -> Tensor:
    """Bool [B, T], True at the entries of `rows`, False at what `pad_rows` adds."""
    return pad_rows([[1] * len(row) for row in rows], 0, side=side).bool()


def shift_right(labels: Tensor, *, start_id: int, pad_id: int) -> Tensor:
    """Decoder inputs [..., T] for labels [..., T]: `start_id`, then the labels but the last; -100 becomes `pad_id`."""
    shifted = torch.full_like(labels, start_id)
    shifted[..., 1:] = labels[..., :-1]
    return shifted.masked_fill(shifted == NOT_SCORED, pad_id)
