"""The examples of a run, from one dataset or several, and micro-batches of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mats.data import Batch, DatasetSpec, Example, Processor, load_examples, load_processor, make_batches
from mats.training.continuations import continuation_examples
from mats.training.request import TrainingRequest
from mats.training.settings import TrainingSettings

Item = tuple[int, Example]
"""Position of the dataset, and one of its examples."""
Part = tuple[int, Batch]
"""Position of the dataset, and a batch of its examples."""


@dataclass(frozen=True)
class TrainingData:
    """What a run sees.

    Attributes:
        items: The training examples of all datasets, one dataset after another, in file order.
        validation: The examples to score, per dataset; empty without a validation split.
    """

    items: tuple[Item, ...]
    validation: tuple[tuple[Example, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """Characters of each training example: near enough to tokens to find examples of like length."""
        return [
            len(example.text) + len(example.text_pair or "") + len(example.target or "") for _, example in self.items
        ]


def read_data(request: TrainingRequest) -> TrainingData:
    """Read and check every example that the run will use.

    Raises:
        DataError: a split is missing or empty, or a row is faulty; the message names file and row.
    """
    settings = request.settings
    items: list[Item] = []
    validation: list[tuple[Example, ...]] = []
    for position, spec in enumerate(request.datasets):
        examples = _training_examples(spec, settings, request.base)
        # The right answer is what is learnt; to tokenise the wrong ones would only take time.
        items += [(position, replace(example, choices=())) for example in examples]
        if settings.validation is not None:
            validation.append(tuple(load_examples(spec, settings.validation, limit=settings.validation_examples)))
    return TrainingData(tuple(items), tuple(validation))


def _training_examples(spec: DatasetSpec, settings: TrainingSettings, base: str | Path) -> list[Example]:
    """A dataset's training examples, shown by the templates asked for, at most as many as the cap allows."""
    if settings.templates is not None:
        if isinstance(settings.templates, int):
            spec = spec.with_template(settings.templates)
        else:
            spec = spec.model_copy(update={"template_rule": settings.templates})
    if settings.continuation is not None:
        texts = load_examples(
            spec.model_copy(update={"task": "language_modeling"}), settings.split, limit=settings.examples
        )
        processor = load_processor(base, spec)
        assert processor is not None  # only images have none
        examples = continuation_examples(texts, processor, settings.continuation, spec.name)
    else:
        examples = load_examples(spec, settings.split, limit=settings.examples)
    if settings.cap is None or len(examples) <= settings.cap:
        return examples
    return capped(examples, settings.cap, len(spec.known_templates) if spec.template_rule == "all" else 1)


def capped(examples: Sequence[Example], cap: int, templates: int) -> list[Example]:
    """At most `cap` examples, drawn evenly from the templates: ⌊cap ÷ templates⌋ of each, and what is left over one by
    one from the first templates, each after a shuffle with seed 0 (the mixtures of T0 and MaTS); in file order.

    Args:
        examples: Every row's examples one after another, one for each template.
        cap: Most examples.
        templates: How many templates there are.
    """
    share, rest = divmod(cap, templates)
    kept: list[int] = []
    for template in range(templates):
        own = list(range(template, len(examples), templates))
        random.Random(0).shuffle(own)
        kept += own[: share + (template < rest)]
    return [examples[index] for index in sorted(kept)]


@dataclass(frozen=True)
class Collator:
    """Makes a micro-batch: one batch for each dataset that has examples in it."""

    specs: Sequence[DatasetSpec]
    processors: Sequence[Processor | None]

    def __call__(self, items: Sequence[Item]) -> tuple[Part, ...]:
        """Tokenised batches of neighbouring items of one dataset each."""
        parts = []
        for position, members in groupby(items, key=lambda item: item[0]):
            examples = [example for _, example in members]
            (batch,) = make_batches(examples, self.specs[position], self.processors[position], len(examples))
            parts.append((position, batch))
        return tuple(parts)


def scored_positions(parts: Sequence[Part]) -> int:
    """Number of labels in a micro-batch that count: classes, values, or target tokens."""
    return sum(_scored(batch) for _, batch in parts)


def _scored(batch: Batch) -> int:
    labels: Any = batch.labels[:, 1:] if batch.task == "language_modeling" else batch.labels
    return int((labels != -100).sum()) if labels.dtype.is_floating_point is False else labels.shape[0]
