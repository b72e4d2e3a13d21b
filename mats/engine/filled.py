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
from mats.checkpoints.legacy import is_ia3_vector
from mats.engine.request import Missing
from mats.errors import InputsMismatch

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


def completed(
    models: Sequence[Checkpoint],
    reference: Checkpoint,
    missing: Mapping[str, Sequence[str]],
    how: Missing,
    *,
    kind: str,
    base: Checkpoint | None,
) -> tuple[tuple[Checkpoint, ...], frozenset[str]]:
    """The models with something in place of what they lack, as the request says; and the names that this gives to all.

    Args:
        models: matched with `reference`.
        reference: the base, or the first model, under the names of the merge.
        missing: name of each model, in their order → names that it lacks.
        how: what the request says.
        kind: of what is merged. A vector that an (IA)³ adapter lacks changes nothing there: it is ones, an update of 0
            that others are added to.
        base: of the merge, whose tensors the result may have instead.

    Raises:
        InputsMismatch: tensors that nothing may stand for.
    """
    if how in FILLS:
        lacking = [fillable(reference, names) for names in missing.values()]
        views = tuple(filled_view(model, reference, names, how) for model, names in zip(models, lacking, strict=True))
        return views, frozenset(name for names in lacking for name in names)
    for name, absent in missing.items():
        if absent and (base is None or how == "error"):
            keep = "" if base is None else "base (the result has the base's), "
            wanted = f"`missing:` {keep}zeros, ones or copy" + ("" if base else ", or a `base:` that has them,")
            raise InputsMismatch(
                f"model {name} lacks {len(absent)} tensors of {reference.name} (first: {absent[0]}); {wanted} would be "
                "right"
            )
    if kind != "ia3" or how != "base":
        return tuple(models), frozenset()
    vectors = [name for name in reference.tensors if is_ia3_vector(name)]
    lacking = [tuple(name for name in vectors if name in absent) for absent in missing.values()]
    views = tuple(filled_view(model, reference, names, "ones") for model, names in zip(models, lacking, strict=True))
    return views, frozenset(vectors)


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
