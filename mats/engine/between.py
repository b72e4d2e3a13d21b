"""A model moved along the straight line from its base, to be measured there.

A fine-tuned model is sure of its answers, so at its own weights their gradients are small, and its curvature tells
little of what a longer step would do. A merge takes such steps, back toward the base above all. The same Grams taken
part of the way back know those directions, and they need nothing but the model, its base and its data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mats.checkpoints import Checkpoint
from mats.checkpoints.fused_experts import ExpertPart, expert_parts
from mats.checkpoints.heads import is_head
from mats.checkpoints.matching import correspondence

Parts = Mapping[str, list[ExpertPart]]
"""Fused parameter → its parts."""


def move_toward_base_(
    model: nn.Module,
    names: Mapping[str, str],
    whole: Checkpoint,
    base: Checkpoint,
    position: float,
    heads: Sequence[str] | None,
) -> tuple[str, ...]:
    """Set every parameter W of `model` to W₀ + position · (W − W₀), computed in float32 and rounded once.

    Args:
        model: As loaded; its floating-point parameters are changed in place.
        names: Parameter name in the model, or name of a part of fused experts → name in `whole`
            (`mats.checkpoints.parameter_names`).
        whole: The checkpoint that the model was loaded from.
        base: Where the line begins: the base, or the neutral adapter.
        position: 0 at the base, 1 at the model.
        heads: Patterns of the parameters that belong to the task alone and stay; (): what transformers calls a head;
            None: there are none.

    Returns:
        The parameters that stayed because the base has none of their name and shape; heads are not among them. Named as
        in `whole`, or as in the model where `whole` does not hold them.
    """
    in_base = {own: name for name, own in correspondence(base, whole).items()}
    parts = expert_parts(model)
    # The model of an adapter is the base but for its vectors.
    stayed = _unnamed(model, names, parts) if whole.kind == "model" else []
    for name, parameter in _parameters(model, names, parts):
        if not parameter.is_floating_point() or (heads is not None and is_head(name, heads)):
            continue
        source = in_base.get(name)
        if source is None or base.tensors[source].shape != tuple(parameter.shape):
            stayed.append(name)
            continue
        start = base.read(source, dtype=torch.float32, device=parameter.device)
        with torch.no_grad():
            parameter.copy_(torch.lerp(start, parameter.float(), position))
    return tuple(stayed)


def _unnamed(model: nn.Module, names: Mapping[str, str], parts: Parts) -> list[str]:
    """Floating-point parameters that were not found in the checkpoint, neither whole nor in parts."""
    return [
        name
        for name, parameter in model.named_parameters()
        if name not in names and name not in parts and parameter.is_floating_point()
    ]


def _parameters(model: nn.Module, names: Mapping[str, str], parts: Parts) -> Iterator[tuple[str, Tensor]]:
    """(name in the checkpoint, the parameter or the part of one that it was loaded into), each memory once."""
    for own, parameter in model.named_parameters():
        if own in names:
            yield names[own], parameter
    for fused, members in parts.items():
        for part in members:
            if part.name in names:
                yield names[part.name], part.of(model.get_parameter(fused))
