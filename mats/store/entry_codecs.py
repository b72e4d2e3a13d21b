"""Sums of squares entry by entry (`diagonal/<parameter>`) in fewer bytes; none can turn negative."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mats.store.codecs import LARGEST_FLOAT8, Part

SCALED_TOGETHER = 256  # entries under one scale


class RoundedEntries:
    """Every entry rounded to bfloat16: to 0.4 % at most, over the whole range of float32."""

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """See `Codec.parts`."""
        return {"": Part(shape, "bfloat16")}

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        return {"": dense.to(torch.bfloat16)}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """See `Codec.decode`."""
        return parts[""].float()

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.diagonal`."""
        return self.decode(parts, shape)


class ScaledRoots:
    """Square roots in float8 (e4m3), 256 entries to a scale: entries down to 1e-11 of their block's largest remain."""

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """See `Codec.parts`."""
        count = torch.Size(shape).numel()
        blocks = -(-count // SCALED_TOGETHER)
        return {"": Part((count,), "float8"), "#scales": Part((blocks,), "float32")}

    def encode(self, dense: Tensor) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        roots = dense.flatten().float().clamp(min=0).sqrt()
        padded = torch.nn.functional.pad(roots, (0, -len(roots) % SCALED_TOGETHER)).view(-1, SCALED_TOGETHER)
        scales = padded.amax(dim=1) / LARGEST_FLOAT8
        codes = padded / torch.where(scales > 0, scales, 1.0)[:, None]
        return {"": codes.flatten()[: len(roots)].to(torch.float8_e4m3fn), "#scales": scales}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.decode`."""
        scales = parts["#scales"].repeat_interleave(SCALED_TOGETHER)[: parts[""].numel()]
        return parts[""].float().mul_(scales).square_().view(shape)

    def diagonal(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """See `Codec.diagonal`."""
        return self.decode(parts, shape)
