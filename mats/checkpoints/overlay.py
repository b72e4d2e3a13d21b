"""Putting a checkpoint's tensors into a model that is already there, parameter by parameter."""

from __future__ import annotations

from difflib import get_close_matches

import torch
from torch import Tensor, nn

from mats.checkpoints.checkpoint import Checkpoint
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
    _check(targets, checkpoint)
    _untie(model, targets, checkpoint)
    with torch.no_grad():
        for name in checkpoint.tensors:
            target = targets[name]
            target.copy_(checkpoint.read(name, dtype=target.dtype))


def _check(targets: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    for name, info in checkpoint.tensors.items():
        if name not in targets:
            nearest = get_close_matches(name, targets, n=1)
            hint = f"; nearest: {nearest[0]}" if nearest else ""
            raise InputsMismatch(f"{checkpoint.path}: tensor {name} has no place in the base{hint}")
        if info.shape != tuple(targets[name].shape):
            raise ShapeMismatch(
                f"{checkpoint.path}: tensor {name} has shape {list(info.shape)}, the base {list(targets[name].shape)}"
            )


def _untie(model: nn.Module, targets: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Give a name its own parameter when its content differs from that of the first name of the same parameter.

    First in the model's order: there an embedding comes before the head, so names that the checkpoint does not give
    (T5's `encoder.embed_tokens.weight`) stay with the embedding.
    """
    first_name: dict[int, str] = {}
    for name in [name for name in targets if name in checkpoint.tensors]:
        owner = first_name.setdefault(id(targets[name]), name)
        if owner == name or checkpoint.digest(owner) == checkpoint.digest(name):
            continue
        module_name, _, leaf = name.rpartition(".")
        fresh = nn.Parameter(targets[name].detach().clone(), requires_grad=targets[name].requires_grad)
        setattr(model.get_submodule(module_name), leaf, fresh)
        targets[name] = fresh
