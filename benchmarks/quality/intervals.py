"""Intervals of the mean share of the individual scores: bootstrap over seeds, and over examples within each task.

Whatever is compared is drawn alike: in each resample, merged and individual models (and two rows that are subtracted)
stand for the same seeds and the same examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scoring import normalised

Correct = Mapping[str, list[int]]
RESAMPLES = 2000
MIDDLE = (2.5, 97.5)


def share_interval(correct: Mapping[int, Correct], own: Mapping[int, Correct]) -> list[float]:
    """[low, high] of the mean over seeds and tasks of score ÷ individual score."""
    return [float(value) for value in np.percentile(_resampled(correct, own), MIDDLE)]


def difference(
    first: Mapping[int, Correct], second: Mapping[int, Correct], own: Mapping[int, Correct]
) -> dict[str, Any]:
    """The first row's share minus the second's, and its paired interval."""
    paired = _resampled(first, own) - _resampled(second, own)
    exact = np.mean([normalised(first[seed], own[seed]) - normalised(second[seed], own[seed]) for seed in own])
    return {"value": float(exact), "interval": [float(value) for value in np.percentile(paired, MIDDLE)]}


def _resampled(correct: Mapping[int, Correct], own: Mapping[int, Correct]) -> NDArray[np.float64]:
    """The share in each resample; the same generator, so the same draws, for whatever rows are given."""
    random = np.random.default_rng(0)
    seeds = sorted(own)
    shares = np.zeros((RESAMPLES, len(seeds)))
    for column, seed in enumerate(seeds):
        for name in own[seed]:
            ours, individual = np.asarray(correct[seed][name], np.float32), np.asarray(own[seed][name], np.float32)
            for row in range(RESAMPLES):
                drawn = random.integers(0, len(individual), len(individual))
                shares[row, column] += ours[drawn].sum() / max(individual[drawn].sum(), 1) / len(own[seed])
    chosen = random.integers(0, len(seeds), (RESAMPLES, len(seeds)))
    return np.take_along_axis(shares, chosen, axis=1).mean(axis=1)
