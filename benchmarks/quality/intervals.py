"""Intervals of the mean share of the individual scores: bootstrap over seeds, and over examples within each task.

Whatever is compared is drawn alike: in each resample, merged and individual models (and two rows that are subtracted)
stand for the same seeds and the same examples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from metrics import OUTCOMES, score_of_counts, share_of
from numpy.typing import NDArray

Outcomes = Mapping[str, list[int]]
RESAMPLES = 2000
MIDDLE = (2.5, 97.5)


def interval(resampled: NDArray[np.float64]) -> list[float]:
    """[low, high]: 95 % of the resamples lie between."""
    return [float(value) for value in np.percentile(resampled, MIDDLE)]


def resampled_shares(
    outcomes: Mapping[int, Outcomes], own: Mapping[int, Outcomes], metrics: Mapping[str, str]
) -> NDArray[np.float64]:
    """The mean over seeds and tasks of score ÷ individual score, in each resample.

    The same generator, so the same draws, for whatever rows are given: subtract two rows for a paired difference.

    Args:
        outcomes: seed → task → the outcome of each example.
        own: the same of the tasks' own models.
        metrics: task → metric, of the tasks that count.

    Returns:
        [resamples]
    """
    random = np.random.default_rng(0)
    seeds = sorted(own)
    shares = np.zeros((RESAMPLES, len(seeds)))
    for column, seed in enumerate(seeds):
        for name in sorted(metrics):  # in one order, whether the answers were just made or read from a file
            examples = len(own[seed][name])
            drawn = random.integers(0, examples, (RESAMPLES, examples))
            merged, individual = (_scores(metrics[name], found[seed][name], drawn) for found in (outcomes, own))
            shares[:, column] += share_of(merged, individual) / len(metrics)
    chosen = random.integers(0, len(seeds), (RESAMPLES, len(seeds)))
    return np.take_along_axis(shares, chosen, axis=1).mean(axis=1)


def _scores(metric: str, outcomes: list[int], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The metric of the examples `drawn` [resamples, examples], in each resample."""
    found = np.asarray(outcomes)
    counts = [(found == each)[drawn].sum(axis=1) for each in range(OUTCOMES[metric])]
    return score_of_counts(metric, np.stack(counts, axis=1))
