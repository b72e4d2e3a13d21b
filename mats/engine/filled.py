"""Models that lack tensors of the merge, with something in their place: a view that leaves what they have as it is.

Only floating-point tensors are filled; what is not merged (integer buffers) is the reference's own in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, TensorInfo
from mats.checkpoints.checkpoint import Stored
from mats.engine.request import Missing

FILLS = ("zeros", "ones", "copy")


def fillable(reference: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` that are merged at all."""
    return tuple(name for name in names if reference.tensors[name].dtype.is_floating_point)


def filled_view(model: Checkpoint, reference: Checkpoint, names: Sequence[str], how: Missing) -> Checkpoint:
    """`model` with the tensors `names` of `reference` in addition.

    Args:
        model: which lacks them.
        reference: the base, or the first model, under the names of the merge.
        names: what is added.
        how: `zeros`, `ones` or `copy`.
    """
    if not names:
        return model
    infos = {name: reference.tensors[name] for name in names}
    constant = _Constant(model.path, infos, float(how == "ones"))
    added = {
        name: reference.place(name) if how == "copy" else Stored(constant, name, info.shape)
        for name, info in infos.items()
    }
    return Checkpoint(
        model.name,
        model.path,
        model.kind,
        {**{name: model.place(name) for name in model.tensors}, **added},
        model.config,
    )


def filled_notes(missing: Mapping[str, Sequence[str]], reference: Checkpoint, how: Missing) -> list[str]:
    """What the plan and the report say about it."""
    if how not in FILLS:
        return []
    told = {"zeros": "zeros", "ones": "ones", "copy": f"a copy of {reference.name}'s"}[how]
    found = {model: fillable(reference, names) for model, names in missing.items()}
    return [
        f"model {model} lacks {len(names)} tensors (first: {names[0]}); {told} in their place"
        for model, names in found.items()
        if names
    ]


class _Constant:
    """A `TensorFile` without a file: every tensor has one value everywhere."""

    def __init__(self, path: Path, infos: dict[str, TensorInfo], value: float) -> None:
        self.path, self.infos, self._value = path, infos, value

    def load(self, name: str, start: int, out: Tensor) -> None:  # noqa: ARG002 - the same everywhere
        out.fill_(self._value)

    def view(self, name: str) -> Tensor:
        """The whole tensor, fresh."""
        return torch.full(self.infos[name].shape, self._value, dtype=self.infos[name].dtype)

    def close(self) -> None:
        """Nothing to close."""
