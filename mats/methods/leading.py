"""The leading singular triplets of a dense matrix: all of them by SVD where that is cheap, else by block iteration.

Subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4, with a fixed start) costs two products with the matrix
per round; a full SVD of 4096 × 4096 in fp64 takes more than a minute on a core. It stops when a round no longer
adds to what the leading directions hold of ‖X‖²; on spectra without a gap it may then miss 1e-7 of that.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 512  # up to this many rows or columns the SVD takes less than half a second
OVERSAMPLING = 16  # directions carried beyond twice the rank: the more, the fewer rounds
GAIN = 1e-9  # a round that adds less than this share of ‖X‖² to the values asked for is the last
ROUNDS = 60
SEED = 0x5EED


def leading_triplets(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """The `rank` largest singular values of a matrix, or more of them, with their vectors.

    Args:
        matrix: [out, in], fp64.
        rank: ≥ 1.

    Returns:
        Left vectors [out, k], falling values [k], right vectors [in, k], and Σ σ² of the values that are not among
        them; where k is all there are, that is 0.
    """
    block = 2 * rank + OVERSAMPLING
    if min(matrix.shape) <= SMALL or 4 * block > min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values, right.mT, 0.0
    start = torch.randn(matrix.shape[1], block, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    basis = torch.linalg.qr(matrix @ start.to(matrix.device)).Q
    total, held = float(matrix.square().sum()), 0.0
    for _ in range(ROUNDS):
        seen = matrix.mT @ basis
        before, held = held, float(torch.linalg.eigvalsh(seen.mT @ seen)[-rank:].sum())
        if held - before <= GAIN * total:
            break
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(seen).Q).Q
    left, values, right = torch.linalg.svd((matrix.mT @ basis).mT, full_matrices=False)
    return (
        (basis @ left)[:, :rank],
        values[:rank],
        right.mT[:, :rank],
        max(total - float(values[:rank].square().sum()), 0.0),
    )
