"""Which entries of a tensor are kept: masks of zeros and ones, made on the CPU and the same wherever they are used.

Chance comes from a counter-based generator, Philox 4×64 (Salmon et al., 2011): entry j of a tensor has the j-th 32-bit
word of the stream whose key is a hash of (seed, model, tensor). So a mask depends on nothing else: not on device,
threads, shards, the order of models, or on which part of the tensor is asked for.

Where magnitudes decide, the order is total: of equal ones the later entry counts as the smaller.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

WORDS_A_STEP = 8  # 32-bit words that one step of the generator's counter yields
RANGE = 1 << 32  # of a word

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


def mask_key(seed: int, model: str, tensor: str) -> int:
    """The generator's 128-bit key for one tensor of one model."""
    return xxhash.xxh3_128_intdigest(f"{seed}\0{model}\0{tensor}".encode())


def random_words(key: int, start: int, count: int) -> npt.NDArray[np.uint32]:
    """Words `start` … `start + count` of the stream of `key`, each uniform in [0, 2³²): any part, at its own cost."""
    step, ahead = divmod(start, WORDS_A_STEP)
    generator = np.random.Philox(key=key, counter=step)
    pairs = generator.random_raw((ahead + count + 1) // 2)
    return pairs.astype("<u8", copy=False).view("<u4")[ahead : ahead + count]


def random_mask(key: int, start: int, count: int, density: float) -> Flags:
    """Entries `start` … `start + count` of the mask that keeps each with probability `density` (to 2⁻³³)."""
    limit = round(density * RANGE)
    if limit >= RANGE:
        return np.ones(count, dtype=np.bool_)
    return random_words(key, start, count) < np.uint32(limit)


def chosen_mask(key: int, chances: npt.NDArray[np.float64]) -> Flags:
    """The mask that keeps entry j of a whole tensor with probability `chances[j]`; flat."""
    return random_words(key, 0, chances.size) < chances * RANGE


def largest_mask(magnitudes: Floats, kept: int) -> Flags:
    """The mask of exactly the `kept` largest of flat magnitudes."""
    size = magnitudes.size
    if kept <= 0 or kept >= size:
        return np.full(size, kept >= size and size > 0, dtype=np.bool_)
    threshold = np.partition(magnitudes, size - kept)[size - kept]
    mask = magnitudes > threshold
    missing = kept - int(np.count_nonzero(mask))
    mask[np.flatnonzero(magnitudes == threshold)[:missing]] = True
    return mask


def middle_mask(magnitudes: Floats, *, smallest: int, largest: int) -> Flags:
    """The mask of all flat magnitudes but the `smallest` smallest and the `largest` largest."""
    mask = largest_mask(magnitudes, magnitudes.size - smallest)
    if largest > 0:
        mask &= ~largest_mask(magnitudes, largest)
    return mask


def rank_chances(magnitudes: Tensor, density: float, epsilon: float) -> npt.NDArray[np.float64]:
    """Chances of being kept that rise with an entry's rank in its row, from density − ε to density + ε.

    Args:
        magnitudes: fp32, at least 0; the first axis counts rows and the others are one; a vector is one row.
        density: the mean chance, which an entry alone in its row has.
        epsilon: half the width (mergekit's `epsilon`; the paper's ε is the whole width).

    Returns:
        One chance per entry, flat: DELLA-Merging (arXiv 2406.11617), section 3.1.
    """
    rows = magnitudes.shape[0] if magnitudes.dim() > 1 else 1
    width = magnitudes.numel() // max(rows, 1)
    if width < 2:
        return np.full(magnitudes.numel(), density)
    table = np.ascontiguousarray(magnitudes.to(torch.float32).reshape(rows, width).numpy())
    rising = density - epsilon + 2.0 * epsilon * np.arange(width, dtype=np.float64) / (width - 1)
    # Magnitudes order as their bits do; the place below them makes every key another, so any sort gives one order.
    places = np.arange(width - 1, -1, -1, dtype=np.uint64)
    chances = np.empty(table.shape)
    for row, values in zip(chances, table, strict=True):
        keys = np.sort((values.view(np.uint32).astype(np.uint64) << np.uint64(32)) | places)
        row[width - 1 - (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)] = rising
    return chances.reshape(-1)
