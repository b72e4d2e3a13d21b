"""An adapter laid onto its base: the whole model that the two are, as a checkpoint whose tensors are made on demand.

Nothing is written and nothing is kept but the factors of the tensor read last, so there is no cache that a crash could
leave half made.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mats.checkpoints.checkpoint import Checkpoint, Stored
from mats.checkpoints.dense_ia3 import ia3_parts
from mats.checkpoints.dense_lora import lora_parts
from mats.checkpoints.dense_rows import Dense, Plain, Rows, row_blocks
from mats.checkpoints.heads import configuration_of, part_of
from mats.checkpoints.lora_places import Places
from mats.checkpoints.tensors import TensorInfo
from mats.errors import InputsMismatch, RequestError


class DenseModel(Checkpoint):
    """A checkpoint of kind `model` made of a base and an adapter.

    Attributes:
        changed: names whose content is not the base's.
        untied: name that the base does not store → the name that its content is stored under there; the adapter makes
            the two differ.
        prefix: what its names have before the base's.
    """

    changed: frozenset[str]
    untied: Mapping[str, str]
    prefix: str


def densify(base: Checkpoint, adapter: Checkpoint, *, at_least: torch.dtype | None = None) -> DenseModel:
    """The model that `adapter` makes of `base`: W + s·B·A for LoRA, weights scaled by the vectors for (IA)³.

    Every tensor is computed in float64, a few rows at a time, and rounded once. Modules saved with the adapter replace
    the base's.

    Args:
        base: a whole model, open.
        adapter: of kind `lora` or `ia3`, open.
        at_least: what changed tensors of fewer bits are shown as (None: each as in the base); a merge reads float32, so
            that only its result is rounded to the base's dtype.

    Raises:
        RequestError: no model and adapter, or an adapter with a feature that is not supported.
        InputsMismatch: an adapted module that the base lacks, or a bias for a layer without one.
        ShapeMismatch: factors that do not fit.
    """
    if base.kind != "model" or adapter.kind == "model":
        raise RequestError(
            f"{adapter.path} on {base.path}: a {adapter.kind} on a {base.kind}; an adapter on a whole model is needed"
        )
    _refuse_quantised(base)
    places, parts = lora_parts(base, adapter) if adapter.kind == "lora" else ia3_parts(base, adapter)
    dtypes = {name: _dtype_of(base, places, name, part, at_least) for name, part in parts.items()}
    file = _DenseFile(adapter.path, parts, dtypes)
    stored = {name: base.place(own) for name, own in places.names().items()}
    stored |= {name: base.place(places.names()[source]) for name, source in places.untied.items()}
    stored |= {name: _place(file, part, dtypes[name], name) for name, part in parts.items()}
    result = DenseModel(adapter.name, adapter.path, "model", stored, None)
    result.config = _configuration(result, parts, base)
    result.changed = frozenset(parts)
    result.untied, result.prefix = dict(places.untied), places.prefix
    return result


def on_one_base(
    base: Checkpoint, models: Sequence[Checkpoint], *, at_least: torch.dtype | None = None
) -> tuple[Checkpoint, tuple[Checkpoint, ...]]:
    """Every adapter among `models` laid onto `base`, and the base as they see it.

    Where an adapter makes tensors differ that the base stores as one (a tied head), the base is shown with both names,
    so that a merge keeps both.
    """
    dense = tuple(model if model.kind == "model" else densify(base, model, at_least=at_least) for model in models)
    views = [model for model in dense if isinstance(model, DenseModel)]
    untied = {name: (view.prefix, source) for view in views for name, source in view.untied.items()}
    if not untied:
        return base, dense
    prefix = next(iter(untied.values()))[0]
    stored = {prefix + name: base.place(name) for name in base.tensors}
    stored |= {name: stored[source] for name, (_, source) in untied.items()}
    return Checkpoint(base.name, base.path, base.kind, stored, base.config), dense


def changed_part(model: DenseModel) -> Checkpoint:
    """Of a dense model, what the base does not hold as it is; both of two names that are no longer one."""
    return part_of(model, sorted({*model.changed, *model.untied, *model.untied.values()}))


def _refuse_quantised(base: Checkpoint) -> None:
    if (base.config or {}).get("quantization_config"):
        raise InputsMismatch(f"{base.name}: its weights are quantised; lay the adapter on weights in floating point")


def _dtype_of(base: Checkpoint, places: Places, name: str, part: Dense, wider: torch.dtype | None) -> torch.dtype:
    own = base.tensors.get(places.untied.get(name, name).removeprefix(places.prefix))
    if own is not None:
        if wider is None or not own.dtype.is_floating_point or own.dtype.itemsize >= wider.itemsize:
            return own.dtype
        return wider
    assert isinstance(part, Plain), "what the base lacks comes from the adapter as it is"
    return part.stored.file.infos[part.stored.name].dtype


def _place(file: _DenseFile, part: Dense, dtype: torch.dtype, name: str) -> Stored:
    """A tensor that needs no arithmetic and no cast is read where it lies."""
    if isinstance(part, Plain) and part.stored.file.infos[part.stored.name].dtype == dtype:
        return part.stored
    return Stored(file, name, part.shape)


def _configuration(model: Checkpoint, parts: Mapping[str, Dense], base: Checkpoint) -> dict[str, object] | None:
    """The base's, with the number of classes of a head that came with the adapter."""
    if base.config is None:
        return None
    return configuration_of(part_of(model, list(parts)), base)


class _DenseFile:
    """A `TensorFile` without a file: rows are made when they are read, and nothing is kept of them."""

    def __init__(self, path: Path, parts: Mapping[str, Dense], dtypes: Mapping[str, torch.dtype]) -> None:
        self.path = path
        self.infos = {name: TensorInfo(name, dtypes[name], part.shape) for name, part in parts.items()}
        self._parts = parts
        self._last = threading.local()  # each thread keeps the factors of the tensor that it is reading

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with the elements of `name` from index `start` on, each rounded once."""
        shape = self.infos[name].shape
        columns = max(1, prod(shape[1:]))
        rows = self._rows_of(name)
        end = start + out.numel()
        for first, last in row_blocks(start // columns, -(-end // columns), columns):
            piece = rows(first, last).flatten()
            begin, stop = max(start, first * columns), min(end, last * columns)
            out[begin - start : stop - start] = piece[begin - first * columns : stop - first * columns]

    def view(self, name: str) -> Tensor | None:  # noqa: ARG002 - there is no file to map
        """None: nothing lies anywhere."""
        return None

    def close(self) -> None:
        """Let the last factors go; the files below are closed by whoever opened them."""
        self._last = threading.local()

    def _rows_of(self, name: str) -> Rows:
        if getattr(self._last, "name", None) != name:
            self._last.name, self._last.rows = None, None  # let go before the next is made
            self._last.rows = self._parts[name].prepare()
            self._last.name = name
        rows: Rows = self._last.rows
        return rows
