"""Several models, each on its datasets: all is checked and tokenised first, then models are loaded one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mats.evaluation.dataset import evaluate_dataset
from mats.evaluation.intervals import CONFIDENCE, RESAMPLES, median_difference
from mats.evaluation.kept import keep, model_fingerprint, read_kept, request_of
from mats.evaluation.metrics import LOWER_IS_BETTER
from mats.evaluation.plan import EvaluationPlan, ScoringTask, check_names
from mats.evaluation.result import EvaluationResult
from mats.evaluation.settings import EvaluationJob, EvaluationSettings
from mats.evaluation.templates import TemplateChoice, summarise_templates
from mats.progress import Progress, Silent

SCHEMA_VERSION = 2
LoadModel = Callable[..., nn.Module]


def evaluate_jobs(
    settings: EvaluationSettings,
    jobs: Sequence[EvaluationJob],
    *,
    progress: Progress | None = None,
    load: LoadModel | None = None,
) -> dict[str, Any]:
    """Score each model on its datasets.

    Rows are read, templates filled, checkpoints' headers compared with the datasets' labels, and texts tokenised (once
    for all models of one tokenizer) before the first model is loaded.

    Args:
        settings: How.
        jobs: Models with their datasets.
        progress: One stage for the data, then one per model, dataset and template, of one step per batch.
        load: Loads a model, as `mats.checkpoints.load_model`, which is the default.

    Returns:
        A value ready for JSON: `schema_version`, `split`, `start`, `limit`, `templates`, `intervals` (how they were
        made), `datasets` (name, task, metric, examples) and `models`: per model `name`, `path`, `results` (dataset →
        metric, value, interval, standard_error, metrics, examples; with several templates their medians, `quartiles`,
        `interquartile_range` and `templates`), `mean` of the values over the datasets (None where only some of the
        metrics are better when lower) and, with references, `differences` (dataset → to, value, interval).

    Raises:
        RequestError: no models or datasets, or two of one name; settings or lengths that cannot be.
        DataError: a split, row, column or label is not right.
        InputsMismatch: a model has other classes than a dataset.
    """
    check_names(jobs)
    progress = progress or Silent()
    plan = EvaluationPlan(settings)
    progress.start("reading data", len(jobs))
    tasks = []
    for job in jobs:
        tasks.append(plan.tasks(job))
        progress.advance()
    outcomes: dict[tuple[str, str], list[EvaluationResult]] = {}
    for job, of_job in zip(jobs, tasks, strict=True):
        scorer = _Scorer(job, settings, load or _load_model())
        for task in of_job:
            outcomes.setdefault((job.name, task.choice.spec.name), []).append(scorer.score(task, progress))
    entries = [_entry(job, of_job, outcomes) for job, of_job in zip(jobs, tasks, strict=True)]
    return {
        "schema_version": SCHEMA_VERSION,
        "split": settings.split,
        "start": settings.start,
        "limit": settings.limit,
        "templates": settings.templates,
        "intervals": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "method": "percentile bootstrap over examples"},
        "datasets": plan.datasets(),
        "models": entries,
    }


@dataclass
class _Scorer:
    """One model's loaded forms (one per task and head)."""

    job: EvaluationJob
    settings: EvaluationSettings
    load: LoadModel
    loaded: dict[tuple[str, str | None], nn.Module] = field(default_factory=dict)
    fingerprints: dict[str | None, str] = field(default_factory=dict)

    def score(self, task: ScoringTask, progress: Progress) -> EvaluationResult:
        """One dataset under one template: from kept predictions of the same request, else by the model."""
        if self.settings.predictions is None:
            return self._score(task, progress)
        path = predictions_path(self.settings, self.job.name, task.choice)
        request = self._request(task)
        kept = read_kept(path, request, task.choice.spec.metrics)
        if kept is not None:
            progress.note(f"{task.description}: scored before, taken from {path}")
            return kept
        result = self._score(task, progress)
        keep(path, request, result)
        return result

    def _score(self, task: ScoringTask, progress: Progress) -> EvaluationResult:
        model = self._model(task)
        progress.start(task.description, task.data.steps)
        return evaluate_dataset(model, task.data, progress)

    def _model(self, task: ScoringTask) -> nn.Module:
        """The model with the head of the task; only the newest one is held."""
        key = (task.task, task.head)
        if key not in self.loaded:
            self.loaded.clear()
            options: dict[str, Any] = {"device": self.settings.device, "dtype": self.settings.dtype}
            options["trust_remote_code"] = self.settings.trust_remote_code
            if task.head is not None:
                options["head"] = task.head
            self.loaded[key] = self.load(self.job.path, task.task, base=self.settings.base, **options)
        return self.loaded[key]

    def _request(self, task: ScoringTask) -> dict[str, Any]:
        if task.head not in self.fingerprints:
            self.fingerprints[task.head] = model_fingerprint(self.job.path, self.settings.base, task.head)
        dtype = None if self.settings.dtype is None else str(self.settings.dtype)
        fingerprint = self.fingerprints[task.head]
        return request_of(fingerprint, task.tokens, dtype, task.choice.spec, task.data.examples)


def predictions_path(settings: EvaluationSettings, model: str, choice: TemplateChoice) -> Path:
    """`<folder>/<model>/<dataset>-<split>[-rows-<start>-<end>][-template-<i>].jsonl`."""
    assert settings.predictions is not None
    parts = [choice.spec.name, settings.split, *settings.rows]
    parts += ["template", str(choice.index)] if choice.index is not None else []
    folder = model.strip("/").replace("/", "--") or "model"
    return settings.predictions / folder / f"{'-'.join(parts)}.jsonl"


def _entry(
    job: EvaluationJob, tasks: Sequence[ScoringTask], outcomes: Mapping[tuple[str, str], Sequence[EvaluationResult]]
) -> dict[str, Any]:
    """One model's part of the report."""
    results, differences = {}, {}
    for spec in job.specs:
        ours = outcomes[job.name, spec.name]
        choices = [task.choice for task in tasks if task.choice.spec.name == spec.name]
        results[spec.name] = summarise_templates(choices, ours)
        reference = job.reference.get(spec.name)
        if reference is not None and (reference, spec.name) in outcomes:
            differences[spec.name] = _difference(reference, ours, outcomes[reference, spec.name])
    lower = {result["metric"] in LOWER_IS_BETTER for result in results.values()}
    mean = sum(result["value"] for result in results.values()) / len(results) if len(lower) == 1 else None
    entry = {"name": job.name, "path": job.path, "results": results, "mean": mean}
    return {**entry, "differences": differences} if differences else entry


def _difference(reference: str, ours: Sequence[EvaluationResult], theirs: Sequence[EvaluationResult]) -> dict[str, Any]:
    """How far a model scores from its reference."""
    first, second = ([result.predictions for result in results] for results in (ours, theirs))
    found = median_difference(ours[0].metric, first, second)
    interval = found.interval.as_json() if found.interval is not None else None
    return {"to": reference, "value": found.value, "interval": interval}


def _load_model() -> LoadModel:
    from mats.checkpoints import load_model

    return load_model
