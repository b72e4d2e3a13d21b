"""The models of a merge, opened: checkpoints, and adapters with what they are laid on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from mats.checkpoints import Checkpoint, on_one_base, open_checkpoint
from mats.checkpoints.companions import has_tokenizer


@dataclass(frozen=True)
class Opened:
    """One model as it lies on disk.

    Attributes:
        stored: a whole model, or an adapter.
        under: the whole model that comes with an adapter (`model+adapter`); None for whole models, and for adapters
            that the merge lays onto its base.
    """

    stored: Checkpoint
    under: Checkpoint | None = None

    @property
    def in_files(self) -> Checkpoint:
        """The checkpoint whose number formats the model has."""
        return self.under or self.stored


def open_input(path: str, adapter: str | None, until: ExitStack) -> Opened:
    """The checkpoint at `path`, and the adapter on it if there is one. `until` closes what was opened.

    Raises:
        MatsError: as opening a checkpoint.
    """
    checkpoint = until.enter_context(open_checkpoint(path))
    if adapter is None:
        return Opened(checkpoint)
    return Opened(until.enter_context(open_checkpoint(adapter)), checkpoint)


def whole_models(models: Sequence[Opened], base: Checkpoint | None) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
    """Every adapter laid onto what is under it, or else onto the base; and the base as all of them see it.

    Adapters on a copy of one path share its view, so that a head that one of them unties is untied for the base too.
    Changed tensors are shown as float32 or wider: a merge rounds once, to the formats of its output.

    Raises:
        MatsError: an adapter that does not fit.
    """
    shown: dict[int, Checkpoint] = {}
    on_base = [index for index, model in enumerate(models) if base is not None and _lies_on(model, base)]
    if base is not None:
        base, dense = on_one_base(base, [models[index].stored for index in on_base], at_least=torch.float32)
        shown |= dict(zip(on_base, dense, strict=True))
    for index, model in enumerate(models):
        if index not in shown:
            under = model.under
            shown[index] = model.stored if under is None else _laid(model.stored, under)
        if model.under is not None:
            shown[index] = _at_home(shown[index], model.under)
    return tuple(shown[index] for index in range(len(models))), base


def _lies_on(model: Opened, base: Checkpoint) -> bool:
    return model.under is None or model.under.path.resolve() == base.path.resolve()


def _laid(adapter: Checkpoint, under: Checkpoint) -> Checkpoint:
    _, (dense,) = on_one_base(under, [adapter], at_least=torch.float32)
    return dense


def _at_home(dense: Checkpoint, under: Checkpoint) -> Checkpoint:
    """A dense model whose configuration and tokenizer lie with the model under it, unless the adapter has its own."""
    if not has_tokenizer(dense.path):
        dense.path = under.path
    return dense
