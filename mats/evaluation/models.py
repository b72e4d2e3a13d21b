"""Scoring several models on several datasets: what `mats evaluate` prints and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.data import DatasetSpec, Example, load_examples, load_processor, make_batches
from mats.errors import InputsMismatch, RequestError
from mats.evaluation.evaluate import evaluate
from mats.evaluation.result import EvaluationResult, write_predictions
from mats.progress import Progress, Silent

SCHEMA_VERSION = 1
LoadModel = Callable[..., nn.Module]


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are scored.

    Attributes:
        split: Split of each dataset.
        batch_size: Examples in a forward pass; changes speed and memory, not the result.
        device: `cpu`, `cuda`, …
        limit: At most the first so many examples of each split; None: all.
        base: Checkpoint under adapters, and the place of the tokenizer where a model has none.
        dtype: Of the loaded weights; None: as stored.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        predictions: Folder for each example's prediction, `<model>/<dataset>-<split>.jsonl`; None: not written.
    """

    split: str = "test"
    batch_size: int = 32
    device: str = "cpu"
    limit: int | None = None
    base: str | None = None
    dtype: torch.dtype | None = None
    trust_remote_code: bool = False
    predictions: Path | None = None


@dataclass
class _Scorer:
    """One model's loaded forms (one per task) and its results so far."""

    name: str
    path: str
    settings: EvaluationSettings
    load: LoadModel
    loaded: dict[str, nn.Module] = field(default_factory=dict)

    def model(self, task: str) -> nn.Module:
        """The model with the head of `task`; only the newest one is held."""
        if task not in self.loaded:
            self.loaded.clear()
            options: dict[str, Any] = {"device": self.settings.device, "dtype": self.settings.dtype}
            options["trust_remote_code"] = self.settings.trust_remote_code
            self.loaded[task] = self.load(self.path, task, base=self.settings.base, **options)
        return self.loaded[task]


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
    """Score every model on every dataset; see `evaluate_with` for the result."""
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
        progress: One stage per model and dataset, one step per batch.
        load: Loads a model, as `mats.checkpoints.load_model`, which is the default.

    Returns:
        A value ready for JSON: `schema_version`, `split`, `limit`, `datasets` (name, task, examples) and `models`: per
        model `name`, `path`, `results` (dataset → metric, value, standard_error, metrics, examples) and `mean` of the
        values over the datasets.

    Raises:
        RequestError: no models or datasets, or two of one name; also what `evaluate` and `load_examples` raise.
        InputsMismatch: a model has not as many classes as a dataset.
    """
    _check_names([name for name, _ in models], "model")
    _check_names([spec.name for spec in specs], "dataset")
    load = load or _load_model()
    progress = progress or Silent()
    data = [(spec, load_examples(spec, settings.split, limit=settings.limit)) for spec in specs]
    entries = []
    for name, path in models:
        scorer = _Scorer(name, str(path), settings, load)
        results = {spec.name: _score(scorer, spec, examples, progress) for spec, examples in data}
        mean = sum(result["value"] for result in results.values()) / len(results)
        entries.append({"name": name, "path": str(path), "results": results, "mean": mean})
    return {
        "schema_version": SCHEMA_VERSION,
        "split": settings.split,
        "limit": settings.limit,
        "datasets": [{"name": spec.name, "task": spec.task, "examples": len(examples)} for spec, examples in data],
        "models": entries,
    }


def _score(scorer: _Scorer, spec: DatasetSpec, examples: Sequence[Example], progress: Progress) -> dict[str, Any]:
    """One model on one dataset; its predictions are written when asked for."""
    settings = scorer.settings
    model = scorer.model(spec.task)
    _check_classes(model, spec, scorer.name)
    processor = load_processor(scorer.path, spec, fallback=settings.base)
    batches = make_batches(examples, spec, processor, settings.batch_size, device=settings.device)
    progress.start(f"{scorer.name} on {spec.name}", len(batches))
    result: EvaluationResult = evaluate(
        model, batches, metrics=spec.metrics, length_normalization=spec.length_normalization, progress=progress
    )
    if settings.predictions is not None:
        write_predictions(result, settings.predictions / scorer.name / f"{spec.name}-{settings.split}.jsonl")
    return result.summary()


def _check_names(names: Sequence[str], what: str) -> None:
    if not names:
        raise RequestError(f"no {what} to evaluate; one or more would be right")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RequestError(f"{what} name '{repeated[0]}' is given twice; unique names would be right")


def _check_classes(model: nn.Module, spec: DatasetSpec, name: str) -> None:
    """Scores of a head made for other classes would be a number without meaning."""
    if not spec.task.endswith("classification"):
        return
    known = getattr(getattr(model, "config", None), "num_labels", None)
    if known is not None and known != spec.num_labels:
        raise InputsMismatch(f"model {name} has {known} classes, dataset {spec.name} has {spec.num_labels}")


def _load_model() -> LoadModel:
    from mats.checkpoints import load_model

    return load_model
