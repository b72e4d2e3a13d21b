"""Experts that transformers 5 fuses into one parameter on loading: which tensors of a checkpoint its parts are.

`mlp.experts.gate_up_proj` [E, 2·m, d] in memory is `experts.3.w1.weight` and `experts.3.w3.weight` [m, d] and so on in
files. transformers is asked to undo its own conversion on a tensor that numbers the rows, so no name is guessed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ExpertPart:
    """Rows of one expert's matrix in a fused parameter, and the tensor that they are in files.

    Attributes:
        name: What the part is called where experts are taken apart: `….experts.3.gate_proj.weight`.
        stored: Its name in files, but for a prefix.
        expert: Number of the expert.
        rows: First row, and the row after the last.
    """

    name: str
    stored: str
    expert: int
    rows: tuple[int, int]

    def of(self, fused: Tensor) -> Tensor:
        """The part of `fused` [E, rows, columns]."""
        return fused[self.expert, slice(*self.rows)]


def expert_parts(model: nn.Module) -> dict[str, list[ExpertPart]]:
    """Fused parameter → its parts, for parameters [E, rows, columns] that are one tensor per expert in files."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 keeps experts apart
        return {}
    wrapper: Any = model
    inner = wrapper.get_base_model() if hasattr(wrapper, "get_base_model") else wrapper
    if not hasattr(inner, "config"):
        return {}
    found = {}
    for name, parameter in inner.named_parameters():
        if parameter.dim() == 3 and ".experts." in name:
            experts, rows = parameter.shape[:2]
            numbers = torch.arange(experts * rows).reshape(experts, rows, 1)
            stored = revert_weight_conversion(inner, {name: numbers})
            if len(stored) > 1:
                found[name] = [_part(name, key, tensor.flatten(), rows) for key, tensor in stored.items()]
    return found


def _part(fused: str, stored: str, numbers: Tensor, rows: int) -> ExpertPart:
    first, last = int(numbers[0]), int(numbers[-1]) + 1
    path, _, leaf = fused.rpartition(".")
    if leaf == "gate_up_proj" and len(numbers) < rows:
        leaf = "up_proj" if first % rows else "gate_proj"
    start = first % rows
    return ExpertPart(f"{path}.{first // rows}.{leaf}.weight", stored, first // rows, (start, start + last - first))
