"""Which names of a checkpoint hold one tensor. Content decides: a config's `tie_word_embeddings` is no evidence.

(transformers 5 sets the flag for every T5 config, of tied and of untied checkpoints alike.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.tensors import natural_order


def tied_groups(checkpoint: Checkpoint, among: Iterable[str] | None = None) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more names with the same bytes; names in natural order, groups by their first name.

    `among` limits the names that are looked at (None: all).

    Candidates are thinned from headers alone (dtype, shape), then by a sample of a few hundred bytes, and only what
    is left is read whole.
    """
    infos = [checkpoint.tensors[name] for name in (checkpoint.tensors if among is None else among)]
    names = [info.name for info in infos if info.dtype.is_floating_point and info.numel > 1]
    alike = _groups(names, lambda name: (checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape))
    sampled = [group for part in alike for group in _groups(part, checkpoint.sample)]
    equal = [group for part in sampled for group in _groups(part, checkpoint.digest)]
    kept = [tuple(sorted(group, key=natural_order)) for group in equal if not _is_constant(checkpoint, group[0])]
    return tuple(sorted(kept, key=lambda group: natural_order(group[0])))


def tied_in_all(base: Checkpoint, models: Sequence[Checkpoint]) -> tuple[tuple[str, ...], ...]:
    """Groups of the base's names that are one tensor in the base and in every model.

    A model that stores only one name of a group has no second opinion and does not break it up; a model that stores
    several of them, with different content, does: its parts then stand alone.
    """
    groups = base.tied
    for model in models:
        groups = tuple(part for group in groups for part in _split_by(group, model))
    return groups


def _split_by(group: tuple[str, ...], model: Checkpoint) -> Iterable[tuple[str, ...]]:
    """The parts of `group` that `model` holds as one tensor; names that it lacks stay with its first part."""
    stored = [name for name in group if name in model.tensors]
    parts: dict[Hashable, list[str]] = defaultdict(list)
    for name in stored:
        info = model.tensors[name]
        parts[(info.dtype, info.shape, model.sample(name), model.digest(name))].append(name)
    if len(parts) <= 1:
        return [group]
    first = next(iter(parts.values()))
    first.extend(name for name in group if name not in stored)
    return [tuple(sorted(part, key=natural_order)) for part in parts.values() if len(part) > 1]


def _groups(names: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Names that share a key, where at least two do."""
    found: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        found[key(name)].append(name)
    return [group for group in found.values() if len(group) > 1]


def _is_constant(checkpoint: Checkpoint, name: str) -> bool:
    sample = checkpoint.sample(name)
    size = checkpoint.tensors[name].dtype.itemsize
    if any(sample[start : start + size] != sample[:size] for start in range(size, len(sample), size)):
        return False
    values = checkpoint.read(name, dtype=torch.float64)
    return bool(torch.eq(values, values.reshape(-1)[0]).all())
