"""What is lost when merged weights are rounded to the output's number format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.engine.inputs import MergeInputs

PIECE = 1 << 20  # entries compared at a time, so that no whole tensor is held in fp64


def rounding_loss(inputs: MergeInputs, merged: Sequence[tuple[str, Tensor]]) -> float | None:
    """‖round(W) − W‖ / ‖W − W_base‖ over the tensors of one layer.

    0 where the output format holds W exactly; None where there is no base, or W equals it, so that there is nothing to
    relate the rounding to.

    Args:
        inputs: gives the output's dtypes and the base.
        merged: (name, merged tensor before rounding).
    """
    formats = {name: inputs.infos[name].dtype for name, _ in merged}
    if all(torch.promote_types(dtype, torch.float32) == dtype for dtype in formats.values()):
        return 0.0
    if inputs.base is None:
        return None
    lost = moved = 0.0
    for name, tensor in merged:
        pieces = zip(tensor.cpu().flatten().split(PIECE), inputs.read_base(name).flatten().split(PIECE), strict=True)
        for exact, base in pieces:
            lost += float((exact.to(formats[name]).double() - exact.double()).square().sum())
            moved += float((exact.double() - base.double()).square().sum())
    return (lost / moved) ** 0.5 if moved > 0 else None
