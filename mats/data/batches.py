"""Examples as batches, in file order or by length, each tokenised when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from mats.data.assemble import (
    image_batch,
    language_modeling_batch,
    prompt_batch,
    text_batch,
    text_to_text_batch,
    token_lengths,
)
from mats.data.batch import Batch
from mats.data.examples import Example
from mats.data.processors import Processor, as_processor
from mats.data.spec import DatasetSpec
from mats.errors import DataError, RequestError


def make_batches(
    examples: Sequence[Example],
    spec: DatasetSpec,
    processor: Any,
    batch_size: int,
    *,
    device: str | torch.device = "cpu",
    by_length: bool = False,
    prompts_only: bool = False,
) -> Sequence[Batch]:
    """Batches of `examples`, lazily made: only the batch in use is in memory.

    Args:
        examples: What `load_examples` returned.
        spec: The dataset they came from.
        processor: What `load_processor` returned, or a bare tokenizer; None for images.
        batch_size: Examples in a batch; fewer in the last one, and where the number of answer choices changes.
        device: Where the tensors of a batch are put.
        by_length: Plan batches by token length, longest first, so that little is padding and what does not fit in
            memory shows at once; the caller restores the order by `Batch.example_ids`. False: in order.
        prompts_only: language_modeling: batches hold the prompts alone, padded on the left, for the model to continue.

    Returns:
        A sequence of known length; the same batch is made anew each time it is asked for.

    Raises:
        DataError: there are no examples.
        RequestError: the batch size is below 1, or a text task has no tokenizer.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size {batch_size}; 1 or more would be right")
    if not examples:
        raise DataError(f"dataset {spec.name}: no examples to make batches of")
    if spec.task != "image_classification" and processor is None:
        raise RequestError(f"dataset {spec.name}: {spec.task} needs a tokenizer; load it with mats.data.load_processor")
    made = None if spec.task == "image_classification" else as_processor(processor)
    if by_length and made is not None:
        lengths = token_lengths(examples, spec, made)
        order = sorted(range(len(examples)), key=lambda index: (len(examples[index].choices), -lengths[index], index))
        examples = [examples[index] for index in order]
    return _LazyBatches(_groups(examples, batch_size), spec, made, device, prompts_only)


def _groups(examples: Sequence[Example], batch_size: int) -> tuple[tuple[Example, ...], ...]:
    """Runs of at most `batch_size` neighbours with equally many answer choices: choices fill a tensor."""
    groups: list[list[Example]] = []
    for example in examples:
        full = not groups or len(groups[-1]) == batch_size or len(groups[-1][0].choices) != len(example.choices)
        if full:
            groups.append([])
        groups[-1].append(example)
    return tuple(tuple(group) for group in groups)


class _LazyBatches(Sequence[Batch]):
    """Batches made on access."""

    def __init__(
        self,
        groups: tuple[tuple[Example, ...], ...],
        spec: DatasetSpec,
        processor: Processor | None,
        device: str | torch.device,
        prompts_only: bool,
    ) -> None:
        self._groups = groups
        self._spec = spec
        self._processor = processor
        self._device = device
        self._prompts_only = prompts_only

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return _LazyBatches(self._groups[index], self._spec, self._processor, self._device, self._prompts_only)
        return self._assemble(self._groups[index]).to(self._device)

    def _assemble(self, group: tuple[Example, ...]) -> Batch:
        spec, processor = self._spec, self._processor
        if processor is None:
            assert spec.image is not None  # the specification was checked when made
            return image_batch(group, spec.image)
        if spec.task in ("text_classification", "text_regression"):
            return text_batch(group, spec, processor)
        if spec.task == "text_to_text":
            return text_to_text_batch(group, spec, processor)
        if self._prompts_only:
            return prompt_batch(group, spec, processor)
        return language_modeling_batch(group, spec, processor)
