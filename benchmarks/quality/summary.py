"""The figures of the table: scores, shares with their intervals, and what made them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import torch
from intervals import interval, resampled_shares
from metrics import score
from scoring import normalised

import mats

Correct = Mapping[str, list[int]]
OURS = "mats"
"""The row that all others are compared with."""


def summarise(
    own: Mapping[int, Correct],
    merges: Mapping[str, Mapping[int, Mapping[str, Any]]],
    needs: Mapping[str, str],
    joint: Mapping[int, Correct],
    metrics: Mapping[str, str],
) -> dict[str, Any]:
    """All of one track, as JSON values.

    Args:
        own: seed → task → outcomes of the task's own model.
        merges: row → seed → `overrides`, `correct` (task → outcomes), `seconds` and `peak_bytes` of a merge.
        needs: row → what it needs beside the models.
        joint: seed → task → outcomes of the model trained on all tasks; empty: there is none.
        metrics: task → metric.
    """
    correct = {row: {seed: found["correct"] for seed, found in of.items()} for row, of in merges.items()}
    resampled = {row: resampled_shares(found, own, metrics) for row, found in correct.items()}
    entries = []
    if joint:
        drawn = resampled_shares(joint, own, metrics)
        entries.append(
            _entry("joint training", "the training data", joint, own, metrics) | {"interval": interval(drawn)}
        )
    for row, found in correct.items():
        entry = _entry(row, needs[row], found, own, metrics) | {"interval": interval(resampled[row])}
        entries.append(entry | _costs(merges[row]))
    shares = {entry["row"]: entry["share"] for entry in entries}
    for entry in entries:
        if (row := entry["row"]) in resampled and row != OURS:
            difference = interval(resampled[OURS] - resampled[row])
            entry["mats_minus_this"] = {"value": shares[OURS] - shares[row], "interval": difference}
    return {
        "seeds": list(own),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "mats": mats.__version__,
        "metrics": dict(metrics),
        "examples": {name: len(next(iter(own.values()))[name]) for name in metrics},
        "individual": mean_scores(own, metrics),
        "rows": entries,
    }


def mean_scores(outcomes: Mapping[int, Correct], metrics: Mapping[str, str]) -> dict[str, float]:
    """Task → the mean over seeds of its score."""
    return {name: mean(score(metric, of[name]) for of in outcomes.values()) for name, metric in metrics.items()}


def _entry(
    row: str, needs: str, correct: Mapping[int, Correct], own: Mapping[int, Correct], metrics: Mapping[str, str]
) -> dict[str, Any]:
    shares = [normalised(correct[seed], own[seed], metrics) for seed in own]
    return {
        "row": row,
        "needs": needs,
        "scores": mean_scores(correct, metrics),
        "share": mean(shares),
        "shares": shares,
        "deviation": stdev(shares) if len(shares) > 1 else None,
    }


def _costs(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What chose and made the merges of a row."""
    return {
        "recipes": {str(seed): each["overrides"] for seed, each in found.items()},
        "seconds": mean(each["seconds"] for each in found.values()),
        "peak_bytes": max(each["peak_bytes"] for each in found.values()),
    }
