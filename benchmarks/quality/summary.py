"""The figures of the table: scores, shares with their intervals, and what made them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import torch
from intervals import interval, resampled_shares
from majority import MARGIN, counted, no_better
from metrics import score
from scoring import normalised

import mats

Correct = Mapping[str, list[int]]
OURS = "mats"
"""The row that all other merges are compared with."""
JOINT = "joint training"


def summarise(
    own: Mapping[int, Correct],
    merges: Mapping[str, Mapping[int, Mapping[str, Any]]],
    needs: Mapping[str, str],
    joint: Mapping[int, Correct],
    metrics: Mapping[str, str],
    majority: Correct,
) -> dict[str, Any]:
    """All of one track, as JSON values.

    Args:
        own: seed → task → outcomes of the task's own model.
        merges: row → seed → `overrides`, `correct` (task → outcomes), `seconds` and `peak_bytes` of a merge.
        needs: row → what it needs beside the models.
        joint: seed → task → outcomes of the model trained on all tasks; empty: there is none.
        metrics: task → metric.
        majority: task → outcomes of the majority class.
    """
    weak = no_better(own, majority, metrics)
    counts = counted(metrics, weak)
    correct = {row: {seed: found["correct"] for seed, found in of.items()} for row, of in merges.items()}
    if joint:
        correct, needs = {JOINT: joint, **correct}, {JOINT: "the training data", **needs}
    resampled = {row: resampled_shares(found, own, counts) for row, found in correct.items()}
    entries = {
        row: {
            "row": row,
            "needs": needs[row],
            "scores": mean_scores(found, metrics),
            **_shares(found, own, counts),
            "interval": interval(resampled[row]),
        }
        for row, found in correct.items()
    }
    for row, made in merges.items():
        entries[row] |= _costs(made)
        if row != OURS:
            value = entries[OURS]["share"] - entries[row]["share"]
            entries[row]["mats_minus_this"] = {"value": value, "interval": interval(resampled[OURS] - resampled[row])}
    return {
        "seeds": list(own),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "mats": mats.__version__,
        "metrics": dict(metrics),
        "examples": {name: len(next(iter(own.values()))[name]) for name in metrics},
        "individual": mean_scores(own, metrics),
        "majority": {name: score(metric, majority[name]) for name, metric in metrics.items()},
        "margin": MARGIN,
        "no_better_than_majority": weak,
        "rows": list(entries.values()),
    }


def mean_scores(outcomes: Mapping[int, Correct], metrics: Mapping[str, str]) -> dict[str, float]:
    """Task → the mean over seeds of its score."""
    return {name: mean(score(metric, of[name]) for of in outcomes.values()) for name, metric in metrics.items()}


def _shares(correct: Mapping[int, Correct], own: Mapping[int, Correct], counts: Mapping[str, str]) -> dict[str, Any]:
    """The share of each seed over the tasks that count, their mean and their deviation."""
    shares = [normalised(correct[seed], own[seed], counts) for seed in own]
    return {"share": mean(shares), "shares": shares, "deviation": stdev(shares) if len(shares) > 1 else None}


def _costs(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What chose and made the merges of a row."""
    return {
        "recipes": {str(seed): each["overrides"] for seed, each in found.items()},
        "seconds": mean(each["seconds"] for each in found.values()),
        "peak_bytes": max(each["peak_bytes"] for each in found.values()),
    }
