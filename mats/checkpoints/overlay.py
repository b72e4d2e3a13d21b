"""Putting a checkpoint's tensors into a model that is already there, parameter by parameter."""

from __future__ import annotations

from difflib import get_close_matches

import torch
from torch import Tensor, nn

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.renaming import names_in_files
from mats.errors import InputsMismatch, ShapeMismatch


def overlay(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Replace the values of `model` by those of `checkpoint`; what the checkpoint lacks stays.

    Where the checkpoint holds different content for two names that are one parameter in the model (an output head
    tied by the class, trained apart by its owner), the parameter is taken apart first.

    Raises:
        InputsMismatch: a name that the model does not have.
        ShapeMismatch: another shape.
    """
    targets: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    targets.update(model.named_buffers(remove_duplicate=False))
    in_memory = {stored: own for own, stored in names_in_files(model).items() if stored not in targets}
    places = {name: in_memory.get(name, name) for name in checkpoint.tensors}  # name here → name in the model
    _check(targets, places, checkpoint)
    _untie(model, targets, places, checkpoint)
    with torch.no_grad():
        for name, own in places.items():
            targets[own].copy_(checkpoint.read(name, dtype=targets[own].dtype))


def _check(targets: dict[str, Tensor], places: dict[str, str], checkpoint: Checkpoint) -> None:
    for name, own in places.items():
        info = checkpoint.tensors[name]
        if own not in targets:
            nearest = get_close_matches(name, targets, n=1)
            hint = f"; nearest: {nearest[0]}" if nearest else ""
            raise InputsMismatch(f"{checkpoint.path}: tensor {name} has no place in the base{hint}")
        if info.shape != tuple(targets[own].shape):
            raise ShapeMismatch(
                f"{checkpoint.path}: tensor {name} has shape {list(info.shape)}, the base {list(targets[own].shape)}"
            )


def _untie(model: nn.Module, targets: dict[str, Tensor], places: dict[str, str], checkpoint: Checkpoint) -> None:
    """Give a name its own parameter when its content differs from that of the first name of the same parameter.

    First in the model's order: there an embedding comes before the head, so names that the checkpoint does not give
    (T5's `encoder.embed_tokens.weight`) stay with the embedding.
    """
    stored = {own: name for name, own in places.items()}
    first: dict[int, str] = {}
    for own in [name for name in targets if name in stored]:
        owner = first.setdefault(id(targets[own]), own)
        if owner == own or checkpoint.digest(stored[owner]) == checkpoint.digest(stored[own]):
            continue
        module_name, _, leaf = own.rpartition(".")
        fresh = nn.Parameter(targets[own].detach().clone(), requires_grad=targets[own].requires_grad)
        setattr(model.get_submodule(module_name), leaf, fresh)
        targets[own] = fresh
