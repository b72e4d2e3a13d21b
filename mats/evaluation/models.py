"""Scoring several models on several datasets: what `mats evaluate` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mats.data import DatasetSpec
from mats.evaluation.jobs import LoadModel, evaluate_jobs
from mats.evaluation.settings import EvaluationJob, EvaluationSettings
from mats.progress import Progress


def evaluate_models(
    models: Sequence[tuple[str, str | Path]],
    specs: Sequence[DatasetSpec],
    split: str = "test",
    batch_size: int = 32,
    device: str = "cpu",
    limit: int | None = None,
    base: str | Path | None = None,
    progress: Progress | None = None,
    *,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Score every model on every dataset; see `evaluate_jobs` for the result."""
    settings = EvaluationSettings(
        split, batch_size, device, limit, str(base) if base is not None else None, predictions=predictions
    )
    return evaluate_with(settings, models, specs, progress=progress)


def evaluate_with(
    settings: EvaluationSettings,
    models: Sequence[tuple[str, str | Path]],
    specs: Sequence[DatasetSpec],
    *,
    progress: Progress | None = None,
    load: LoadModel | None = None,
) -> dict[str, Any]:
    """Score every model on every dataset.

    Args:
        settings: How.
        models: (name, path) pairs; names are unique.
        specs: Datasets; names are unique.
        progress: See `evaluate_jobs`.
        load: See `evaluate_jobs`.

    Returns:
        What `evaluate_jobs` returns.
    """
    jobs = [EvaluationJob(name, str(path), tuple(specs)) for name, path in models]
    return evaluate_jobs(settings, jobs, progress=progress, load=load)
