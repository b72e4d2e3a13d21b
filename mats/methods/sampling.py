"""A small, evenly spread part of a tensor on disk, read without reading the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint
from mats.methods.magnitude import SAMPLE_BLOCK


def sample_ranges(numel: int, count: int) -> list[range]:
    """The blocks of a sample of `count` of `numel` entries: from the first entry to the last, or everything."""
    blocks = -(-count // SAMPLE_BLOCK)
    if blocks * SAMPLE_BLOCK >= numel:
        return [range(numel)]
    gaps = max(blocks - 1, 1)
    starts = (block * (numel - SAMPLE_BLOCK) // gaps for block in range(blocks))
    return [range(start, start + SAMPLE_BLOCK) for start in starts]


def sample_checkpoint(checkpoint: Checkpoint, name: str, count: int) -> Tensor:
    """About `count` entries of tensor `name`, flat, in its stored dtype; see `Sampler.sample`.

    Nothing is checked for NaN here: whoever samples reads the whole tensor later.
    """
    place, info = checkpoint.place(name), checkpoint.tensors[name]
    ranges = sample_ranges(info.numel, count)
    sample = torch.empty(sum(map(len, ranges)), dtype=info.dtype)
    for part, places in zip(sample.split([len(places) for places in ranges]), ranges, strict=True):
        place.file.load(place.name, places.start, part)
    return sample
