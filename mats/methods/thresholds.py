"""The magnitude from which on a model's changes are kept: over the whole model, streamed, or over one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mats.errors import ShapeMismatch
from mats.methods.elementwise import BaseReader, ModelReader, Sampler, differences, is_mergeable
from mats.methods.magnitude import BracketSelection, RadixSelection, kept_rank
from mats.progress import Progress

SAMPLE_SHARE = 256  # one entry in so many is looked at before the pass, within the next two bounds
SMALLEST_SAMPLE, LARGEST_SAMPLE = 1 << 20, 1 << 23  # of a million, 1 % of all entries lie inside the bracket


def task_vector(tensor: Tensor, base: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """θ − θ0 of flat tensors in fresh fp32 pieces, with their places; taken in fp32 or better whatever is stored."""
    for piece, change in differences(tensor, base):
        yield piece, change.float()


def magnitudes(name: str, tensor: Tensor, base: Tensor) -> Iterator[Tensor]:
    """|θ − θ0| in fp32, piece by piece in storage order."""
    if tensor.shape != base.shape:
        raise ShapeMismatch(f"{name}: a model's tensor has shape {tuple(tensor.shape)}, the base's {tuple(base.shape)}")
    for _, piece in task_vector(tensor.reshape(-1), base.reshape(-1)):
        yield piece.abs_()


def tensor_threshold(tensor: Tensor, base: Tensor, density: float) -> float:
    """The threshold of one tensor on its own."""
    rank = kept_rank(tensor.numel(), density)
    if rank <= 0:
        return 0.0
    selection = RadixSelection()
    for piece in magnitudes("tensor", tensor, base):
        selection.add(piece)
    selection.next_pass(rank)
    for piece in magnitudes("tensor", tensor, base):
        selection.add(piece)
    return selection.result()


def global_thresholds(
    reader: ModelReader,
    base_reader: BaseReader,
    names: Sequence[str],
    models: int,
    density: float,
    progress: Progress,
    *,
    sampler: Sampler | None = None,
) -> tuple[float, ...]:
    """Each model's threshold over all `names` together, exactly: the k-th smallest magnitude of its task vector.

    With a `sampler` one pass over all models, and two more over those whose answer lies outside the bracket that the
    sample gave (rarely any); without one, two passes. Memory does not grow with the size of the models.
    """
    stream = _Stream(reader, base_reader, names, progress)
    found: dict[int, float] = {}
    if sampler is not None:
        found = _by_bracket(stream, sampler, models, density)
    missing = [model for model in range(models) if model not in found]
    if missing:
        found |= _by_radix(stream, missing, density)
    return tuple(found[model] for model in range(models))


class _Stream:
    """The task vectors of all models, one tensor of one model at a time."""

    def __init__(self, reader: ModelReader, base_reader: BaseReader, names: Sequence[str], progress: Progress) -> None:
        self.reader, self.base_reader, self.names, self.progress = reader, base_reader, names, progress

    def show(self, description: str, selections: Mapping[int, BracketSelection | RadixSelection]) -> int:
        """Show every magnitude to its model's selection; returns how many entries a model has."""
        total = 0
        self.progress.start(description, len(self.names))
        for name in self.names:
            base = self.base_reader(name)
            if is_mergeable(base.dtype):
                total += base.numel()
                for model, selection in selections.items():
                    for piece in magnitudes(name, self.reader(model, name), base):
                        selection.add(piece)
            self.progress.advance()
        return total


def _by_bracket(stream: _Stream, sampler: Sampler, models: int, density: float) -> dict[int, float]:
    """Thresholds of the models whose sample bracketed them, in one pass."""
    total = sum(sampler.numel(name) for name in stream.names)
    samples = _samples(sampler, models, stream.names, total)
    selections = {model: BracketSelection.from_sample(sample, density) for model, sample in enumerate(samples)}
    total = stream.show("ties: thresholds", selections)
    rank = kept_rank(total, density)
    results = {model: selection.result(rank) for model, selection in selections.items()}
    return {model: value for model, value in results.items() if value is not None}


def _by_radix(stream: _Stream, models: Sequence[int], density: float) -> dict[int, float]:
    """Thresholds of `models`, whatever the values are, in two passes."""
    selections = {model: RadixSelection() for model in models}
    rank = kept_rank(stream.show("ties: thresholds (1 of 2)", selections), density)
    if rank <= 0:
        return dict.fromkeys(models, 0.0)
    for selection in selections.values():
        selection.next_pass(rank)
    stream.show("ties: thresholds (2 of 2)", selections)
    return {model: selection.result() for model, selection in selections.items()}


def _samples(sampler: Sampler, models: int, names: Sequence[str], total: int) -> list[Tensor]:
    """Magnitudes of one entry in `SAMPLE_SHARE` of each model's task vector, in proportion from every tensor."""
    wanted = min(max(total // SAMPLE_SHARE, SMALLEST_SAMPLE), LARGEST_SAMPLE)
    pieces: list[list[Tensor]] = [[torch.empty(0)] for _ in range(models)]
    for name in names:
        count = round(wanted * sampler.numel(name) / max(total, 1)) + 1
        base = sampler.sample(None, name, count)
        if is_mergeable(base.dtype):
            for model in range(models):
                pieces[model].extend(magnitudes(name, sampler.sample(model, name, count), base))
    return [torch.cat(parts) for parts in pieces]
