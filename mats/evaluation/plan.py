"""What is to be scored, checked and tokenised before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mats.data import DatasetSpec, Example, Processor, load_examples, load_processor
from mats.errors import RequestError
from mats.evaluation.facts import ModelFacts, check_head, check_length, read_facts
from mats.evaluation.prepared import PreparedData, SharedData, processor_fingerprint
from mats.evaluation.settings import EvaluationJob, EvaluationSettings
from mats.evaluation.templates import TemplateChoice, choose_templates


@dataclass(frozen=True)
class ScoringTask:
    """One model on one dataset under one template."""

    job: EvaluationJob
    choice: TemplateChoice
    data: PreparedData
    task: str
    tokens: str

    @property
    def head(self) -> str | None:
        """Name of the head to load the model with."""
        return self.job.heads.get(self.choice.spec.name)

    @property
    def description(self) -> str:
        """For progress."""
        return ", ".join(filter(None, (f"{self.job.name} on {self.choice.spec.name}", self.choice.label)))


class EvaluationPlan:
    """What is to be done, checked; rows are read once per dataset and template, and tokenised once per tokenizer."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self._settings = settings
        self._shared = SharedData(settings.batch_size)
        self._rows: dict[tuple[str, int | None], list[Example]] = {}
        self._specs: dict[str, DatasetSpec] = {}
        self._processors: dict[tuple[str, bool], tuple[Processor | None, str]] = {}

    def tasks(self, job: EvaluationJob) -> list[ScoringTask]:
        """Everything that one model is scored on, ready."""
        choices = [choice for spec in job.specs for choice in choose_templates(spec, self._settings.templates)]
        examples = [self._examples(choice) for choice in choices]
        heads = {None, *job.heads.values()} if len(job.heads) < len(job.specs) else set(job.heads.values())
        facts = {head: read_facts(job.name, job.path, self._settings.base, head) for head in heads}
        return [
            self._task(job, facts[job.heads.get(choice.spec.name)], choice, rows)
            for choice, rows in zip(choices, examples, strict=True)
        ]

    def datasets(self) -> list[dict[str, Any]]:
        """The datasets met, for the report."""
        return [
            {
                "name": name,
                "task": spec.task,
                "metric": spec.metrics[0],
                "examples": next(len(rows) for (owner, _), rows in self._rows.items() if owner == name),
            }
            for name, spec in self._specs.items()
        ]

    def _examples(self, choice: TemplateChoice) -> list[Example]:
        settings, spec = self._settings, choice.spec
        known = self._specs.setdefault(spec.name, spec)
        if known.model_copy(update={"template_rule": spec.template_rule}) != spec:
            raise RequestError(f"dataset name '{spec.name}' stands for two datasets; unique names would be right")
        key = (spec.name, choice.index)
        if key not in self._rows:
            self._rows[key] = load_examples(spec, settings.split, limit=settings.limit, start=settings.start)
        return self._rows[key]

    def _task(
        self, job: EvaluationJob, facts: ModelFacts, choice: TemplateChoice, examples: list[Example]
    ) -> ScoringTask:
        spec = choice.spec
        check_head(facts, spec)
        processor, tokens = self._processor(job.path, spec)
        data = self._shared.prepare(spec, examples, processor, decoder_only=facts.reads_as_causal(spec))
        check_length(facts, data)
        return ScoringTask(job, choice, data, facts.task(spec), tokens)

    def _processor(self, path: str, spec: DatasetSpec) -> tuple[Processor | None, str]:
        """A model's tokenizer with its fingerprint; read once."""
        key = (path, spec.task == "image_classification")
        if key not in self._processors:
            processor = load_processor(path, spec, fallback=self._settings.base)
            self._processors[key] = processor, processor_fingerprint(processor)
        return self._processors[key]


def check_names(jobs: Sequence[EvaluationJob]) -> None:
    """Names identify models and datasets in the report.

    Raises:
        RequestError: there are none, or one is given twice.
    """
    _check_unique([job.name for job in jobs], "model")
    if not all(job.specs for job in jobs):
        raise RequestError("no dataset to evaluate; one or more would be right")
    for job in jobs:
        _check_unique([spec.name for spec in job.specs], "dataset")


def _check_unique(names: Sequence[str], what: str) -> None:
    if not names:
        raise RequestError(f"no {what} to evaluate; one or more would be right")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RequestError(f"{what} name '{repeated[0]}' is given twice; unique names would be right")
