"""Examples as batches, in file order, each tokenised when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from mats.data.assemble import image_batch, language_modeling_batch, text_batch, text_to_text_batch
from mats.data.batch import Batch
from mats.data.examples import Example
from mats.data.processors import as_processor
from mats.data.spec import DatasetSpec
from mats.errors import DataError, RequestError


def make_batches(
    examples: Sequence[Example],
    spec: DatasetSpec,
    processor: Any,
    batch_size: int,
    *,
    device: str | torch.device = "cpu",
) -> Sequence[Batch]:
    """Batches of `examples`, in order, lazily made: only the batch in use is in memory.

    Args:
        examples: What `load_examples` returned.
        spec: The dataset they came from.
        processor: What `load_processor` returned, or a bare tokenizer; None for images.
        batch_size: Examples in a batch; fewer in the last one, and where the number of answer choices changes.
        device: Where the tensors of a batch are put.

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
    return _LazyBatches(_groups(examples, batch_size), spec, processor, device)


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
        self, groups: tuple[tuple[Example, ...], ...], spec: DatasetSpec, processor: Any, device: str | torch.device
    ) -> None:
        self._groups = groups
        self._spec = spec
        self._processor = None if spec.task == "image_classification" else as_processor(processor)
        self._device = device

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return _LazyBatches(self._groups[index], self._spec, self._processor, self._device)
        return self._assemble(self._groups[index]).to(self._device)

    def _assemble(self, group: tuple[Example, ...]) -> Batch:
        spec, processor = self._spec, self._processor
        if processor is None:
            assert spec.image is not None  # the specification was checked when made
            return image_batch(group, spec.image)
        if spec.task == "text_classification":
            return text_batch(group, spec, processor)
        if spec.task == "text_to_text":
            return text_to_text_batch(group, spec, processor)
        return language_modeling_batch(group, spec, processor)
