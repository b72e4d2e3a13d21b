"""Labels drawn from the model, the same in any batch, shard, pass or resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from mats.curvature.losses import IGNORED


def uniforms(seed: int, example_ids: Sequence[str], positions: int, repetition: int = 0) -> Tensor:
    """One number in [0, 1) for each (example, position), from a hash of (seed, example id, position, repetition) alone.

    Returns:
        float64 [examples, positions] on the CPU. The example's hash is stepped by SplitMix64 (Steele et al. 2014).
    """
    again = f"\0{repetition}" if repetition else ""  # the first repetition has the numbers of a single one
    keys = [hashlib.blake2b(f"{seed}\0{example}{again}".encode(), digest_size=8).digest() for example in example_ids]
    start = numpy.frombuffer(b"".join(keys), dtype="<u8").astype(numpy.uint64)[:, None]
    with numpy.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is meant
        steps = numpy.arange(1, positions + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        state = start + steps[None, :]
        state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    state = state ^ (state >> numpy.uint64(31))
    return torch.from_numpy((state >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53)


def normals(seed: int, example_ids: Sequence[str], repetition: int = 0) -> Tensor:
    """One draw from N(0, 1) for each example, float64 [examples] on the CPU, by inverting its distribution function."""
    middle_of_step = (
        uniforms(seed, example_ids, 1, repetition)[:, 0] + 2.0**-54
    )  # in (0, 1), so that every draw is finite
    return torch.special.ndtri(middle_of_step)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index per row by inverting the cumulative distribution.

    Args:
        logits: [R, V].
        uniform: float64 [R], in [0, 1).

    Returns:
        int64 [R]. Entries of probability 0 (logit -inf) are never drawn.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    threshold = (uniform[:, None] * cumulative[:, -1:]).contiguous()
    drawn = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    # Rounding may leave the threshold at the very top: then the last entry with any probability is meant.
    last = (logits > -torch.inf).to(torch.int64).cumsum(-1).argmax(-1)
    return torch.minimum(drawn, last)


def draw_labels(logits: Tensor, labels: Tensor, seed: int, example_ids: Sequence[str], repetition: int = 0) -> Tensor:
    """Replace every scored label by a draw from the model's distribution at its position.

    A position is counted among the example's own scored positions, so padding on either side changes nothing. Examples
    are drawn one after the other, to keep a single [R, V] table in float64.

    Args:
        logits: [B, R, V], aligned with `labels`.
        labels: int64 [B, R], -100 where nothing is scored (and nothing is drawn).
        seed: Of the draws.
        example_ids: Of the B examples.
        repetition: Which of several independent draws of all labels.
    """
    uniform = uniforms(seed, example_ids, labels.shape[1], repetition).to(labels.device)
    ordinal = ((labels != IGNORED).cumsum(1) - 1).clamp(min=0)
    uniform = uniform.gather(1, ordinal)
    drawn = torch.stack([draw(logits[n].detach(), uniform[n]) for n in range(labels.shape[0])])
    return torch.where(labels == IGNORED, labels, drawn)
