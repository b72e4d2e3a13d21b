"""Checkpoints with their tensors under other names: layers picked, repeated and moved. Only names change; no content.

A tensor that occurs twice in the source under one name may occur any number of times here, and each occurrence is a
tensor of its own: repeating a layer ties nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from mats.checkpoints.checkpoint import Checkpoint, Stored
from mats.checkpoints.tensors import natural_order


class ArrangedCheckpoint(Checkpoint):
    """Tensors of one checkpoint under new names, and those that it lacks from others.

    Args:
        source: the checkpoint.
        names: name here → name in `source`.
        others: name here → place in some other checkpoint, for names that `source` gives nothing to.
        config: values that replace those of the source's config.
    """

    def __init__(
        self, source: Checkpoint, names: Mapping[str, str], others: Mapping[str, Stored], config: Mapping[str, Any]
    ) -> None:
        stored = {**others, **{name: source.place(own) for name, own in names.items()}}
        super().__init__(source.name, source.path, source.kind, stored, {**(source.config or {}), **config})
        self._source, self._names = source, names

    @cached_property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names whose tensors the source ties under different names."""
        groups = []
        for group in self._source.tied:
            members = sorted((name for name, own in self._names.items() if own in group), key=natural_order)
            if len(members) > 1 and len({self._names[name] for name in members}) == len(members):
                groups.append(tuple(members))
        return tuple(sorted(groups, key=lambda group: natural_order(group[0])))


def arranged(
    sources: Sequence[Checkpoint], names: Sequence[Mapping[str, str]], config: Mapping[str, Any]
) -> tuple[Checkpoint, ...]:
    """Each of `sources` under its new names; what one lacks is shown as the first of them that has it shows it.

    So all of them have the same names, although a merge reads from each what is its own. Files stay shared and open.

    Args:
        sources: in order of preference.
        names: for each source: name in the result → name in the source.
        config: values that replace those of every config.
    """
    known: dict[str, Stored] = {}
    for source, own_names in zip(sources, names, strict=True):
        for name, own in own_names.items():
            if name not in known:
                known[name] = source.place(own)
    views = []
    for source, own_names in zip(sources, names, strict=True):
        others = {name: place for name, place in known.items() if name not in own_names}
        views.append(ArrangedCheckpoint(source, own_names, others, config))
    return tuple(views)
