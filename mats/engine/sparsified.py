"""A model with its change thinned out: a view of its checkpoint whose tensors are made when they are asked for.

    θ̃ = θ0 + s · m · (θ − θ0)

Everything that reads the models of a merge reads through it, so any method works on sparsified models; nothing is
written, and no more than one tensor is held. The model on disk stays what metadata are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, TensorInfo
from mats.checkpoints.checkpoint import Stored
from mats.engine.memory import FLOAT
from mats.errors import RequestError
from mats.methods.elementwise import CHUNK, working_dtype
from mats.methods.sparsify import SparsifySettings
from mats.methods.sparsify_kernels import factors, random_factors
from mats.methods.sparsify_masks import mask_key

COPIES = {"place": 3, "random": 6, "magnitude": 7, "breadcrumbs": 7, "della": 12}
"""fp32 copies of a tensor held at once, the result included; `place`: where any piece can be made by itself."""


def sparsified_view(
    model: Checkpoint, base: Checkpoint | None, own_names: Mapping[str, str], settings: SparsifySettings, called: str
) -> Checkpoint:
    """`model` sparsified, under the names of the merge.

    Args:
        model: as it lies on disk, or a view of it.
        base: what changes are measured against, under the names of the merge; not read with `of: weights`.
        own_names: name in the merge → name in `model`; floating-point tensors that both have.
        settings: what is dropped, and the seed.
        called: the model's name in the request: masks depend on it, on the seed and on the name in the merge.
    """
    file = _SparsifiedTensors(model, base if settings.of == "delta" else None, own_names, settings, called)
    stored = {name: Stored(file, name, info.shape) for name, info in file.infos.items()}
    return Checkpoint(model.name, model.path, model.kind, stored, model.config)


def sparsified_views(
    given: Sequence[Thinned],
    models: Sequence[Checkpoint],
    base: Checkpoint | None,
    own_names: Callable[[int], Mapping[str, str]],
) -> dict[int, Checkpoint]:
    """Model index → the model with its change thinned out, where the request asks for that and it does anything.

    Args:
        given: the request's models.
        models: their checkpoints.
        base: of the merge; None without one.
        own_names: model index → `own_names` of `sparsified_view`.

    Raises:
        RequestError: the change against a base is asked for, and there is none.
    """
    views = {}
    for index, (asked, model) in enumerate(zip(given, models, strict=True)):
        if asked.sparsify is None or asked.sparsify.changes_nothing:
            continue
        if base is None and asked.sparsify.of == "delta":
            raise RequestError(
                f"model {asked.name}: sparsify.of: delta is the change against a base, and none is given; `base:`, "
                "or of: weights, would be right"
            )
        views[index] = sparsified_view(model, base, own_names(index), asked.sparsify, asked.name)
    return views


class Thinned(Protocol):
    """What is asked here of a request's model."""

    @property
    def name(self) -> str:
        """How the report calls it."""

    @property
    def sparsify(self) -> SparsifySettings | None:
        """What is dropped of it; None: nothing."""


def sparsify_notes(models: Sequence[Thinned], *, measured: bool) -> list[str]:
    """What the plan and the report say about it: a sentence for models that are treated alike.

    Args:
        models: of the request.
        measured: whether their metadata are used.
    """
    alike: dict[SparsifySettings, list[str]] = {}
    for model in models:
        if model.sparsify is not None:
            alike.setdefault(model.sparsify, []).append(model.name)
    notes = [f"sparsified before the merge: {', '.join(names)}: {used.told}" for used, names in alike.items()]
    if measured and any(not used.changes_nothing for used in alike):
        notes.append("metadata are those of the models as they were before they were sparsified")
    return notes


def sparsify_bytes(models: Sequence[Thinned], largest: int) -> int:
    """Upper estimate of the memory that a tensor of `largest` entries takes beside the merge while it is sparsified."""
    used = [model.sparsify for model in models if model.sparsify is not None and not model.sparsify.changes_nothing]
    return max((COPIES["place" if each.by_place else each.strategy] for each in used), default=0) * FLOAT * largest


class _SparsifiedTensors:
    """A `TensorFile` without a file: pieces of a tensor by themselves where places decide, else the whole one."""

    def __init__(
        self,
        model: Checkpoint,
        base: Checkpoint | None,
        own_names: Mapping[str, str],
        settings: SparsifySettings,
        called: str,
    ) -> None:
        self.path: Path = model.path
        self._model, self._base, self._settings, self._called = model, base, settings, called
        self._own_names = own_names
        self.infos = {
            name: TensorInfo(name, self._dtype(name), model.tensors[own].shape) for name, own in own_names.items()
        }
        self._last: tuple[str, Tensor] | None = None

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with the elements of `name` from index `start` on."""
        if not self._settings.by_place:
            if self._last is None or self._last[0] != name:
                self._last = None  # the old tensor goes before the new one comes
                self._last = (name, self.view(name))
            out.copy_(self._last[1].reshape(-1)[start : start + out.numel()])
            return
        for first in range(0, out.numel(), CHUNK):
            piece = out[first : first + CHUNK]
            model, base = self._piece(self._model, self._own_names[name], start + first, piece.numel()), None
            if self._base is not None:
                base = self._piece(self._base, name, start + first, piece.numel())
            kept = random_factors(self._settings, self._key(name), start + first, piece.numel(), piece.dtype)
            _combine(base, model, kept, piece)

    def view(self, name: str) -> Tensor:
        """The whole tensor, fresh.

        Raises:
            NonFiniteWeights, CheckpointCorrupt: from the files.
        """
        info = self.infos[name]
        model = self._model.read(self._own_names[name]).reshape(-1)
        base = None if self._base is None else self._base.read(name).reshape(-1)
        result = torch.empty(info.numel, dtype=info.dtype)
        whole = None if self._settings.by_place else self._factors(name, model, base)
        for start in range(0, info.numel, CHUNK):
            piece = slice(start, start + CHUNK)
            out = result[piece]
            if whole is None:
                kept = random_factors(self._settings, self._key(name), start, out.numel(), info.dtype)
            else:
                kept = whole[piece]
            _combine(None if base is None else base[piece], model[piece], kept, out)
        return result.reshape(info.shape)

    def close(self) -> None:
        """Nothing to close; the files belong to the checkpoints below."""

    def _dtype(self, name: str) -> torch.dtype:
        """fp32, or fp64 where the model or the base is: a kept change times 1 / (1 − drop) is not rounded to bf16."""
        dtype = working_dtype(self._model.tensors[self._own_names[name]].dtype)
        return dtype if self._base is None else torch.promote_types(dtype, self._base.tensors[name].dtype)

    def _factors(self, name: str, model: Tensor, base: Tensor | None) -> Tensor:
        info = self.infos[name]
        change = model.to(info.dtype) if base is None else torch.sub(model.to(info.dtype), base.to(info.dtype))
        return factors(change.reshape(info.shape), self._settings, self._key(name)).reshape(-1)

    def _key(self, name: str) -> int:
        return mask_key(self._settings.seed or 0, self._called, name)

    @staticmethod
    def _piece(checkpoint: Checkpoint, name: str, start: int, count: int) -> Tensor:
        place = checkpoint.place(name)
        piece = torch.empty(count, dtype=checkpoint.tensors[name].dtype)
        place.file.load(place.name, start, piece)
        return piece


def _combine(base: Tensor | None, model: Tensor, kept: Tensor, out: Tensor) -> None:
    """θ0 + f · (θ − θ0) into `out`, by torch's `lerp`, which gives θ0 itself for f = 0 and θ itself for f = 1."""
    start = torch.zeros_like(out) if base is None else base.to(out.dtype)
    torch.lerp(start, model.to(out.dtype), kept, out=out)
