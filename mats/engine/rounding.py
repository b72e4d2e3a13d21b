"""What is lost when merged weights are rounded to the output's number format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.engine.inputs import MergeInputs

PIECE = 1 << 17  # entries compared at a time: a few fp32 buffers of this length stay in the second-level cache


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
            lost += float(torch.linalg.vector_norm(exact.to(formats[name]).to(exact.dtype).sub_(exact))) ** 2
            moved += float(torch.linalg.vector_norm(exact - base)) ** 2
    return (lost / moved) ** 0.5 if moved > 0 else None
