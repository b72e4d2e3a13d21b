"""Which tensor of a checkpoint a model's parameter was loaded from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.fused_experts import ExpertPart, expert_parts
from mats.checkpoints.legacy import PEFT_PREFIX
from mats.checkpoints.renaming import names_in_files


def parameter_names(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Model parameter name → name of the checkpoint's tensor that it holds.

    Names can differ by a prefix (a checkpoint of the bare body in a class with a head, or the reverse), by what PEFT
    adds (`base_model.model.`, `.base_layer`, `.<adapter>`), and by what transformers renames on loading. A name is
    accepted only when shape and content agree with the parameter, so a parameter that was changed, or never was in the
    checkpoint, is absent from the result.

    Names of one tied parameter all map to the same tensor. Parts of experts that are fused in memory alone are found
    too, under the names that they have where experts are apart (`mats.curvature`): `….experts.3.gate_proj.weight`. The
    checkpoint is read once.

    Args:
        model: as loaded, on any device, in any dtype (the checkpoint's values are cast to it).
        checkpoint: what it was loaded from.
    """
    names_of: dict[int, list[str]] = defaultdict(list)
    parameters: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of[id(parameter)].append(name)
        parameters[id(parameter)] = parameter
    search = _Search(checkpoint, _prefixes(model, checkpoint), names_in_files(model))
    result = {}
    for key, names in names_of.items():
        found = next((hit for name in names for hit in search.matches(name, parameters[key])), None)
        if found is not None:
            result.update(dict.fromkeys(names, found))
    for fused, parts in expert_parts(model).items():
        result.update(_part_names(search, parts, model.get_parameter(fused)))
    return result


def _part_names(search: _Search, parts: list[ExpertPart], fused: Tensor) -> dict[str, str]:
    """Part of a fused parameter → the checkpoint's tensor that it was loaded from."""
    found = {}
    for part in parts:
        tensor = part.of(fused)
        stored = next(search.matches(part.stored, tensor), None)
        if stored is not None:
            found[part.name] = stored
    return found


@dataclass
class _Search:
    """Candidates for a parameter's name in the checkpoint; each pair of them is compared once."""

    checkpoint: Checkpoint
    prefixes: tuple[str, ...]
    in_files: dict[str, str]
    compared: dict[tuple[str, int], bool] = field(default_factory=dict)

    def matches(self, name: str, parameter: Tensor) -> Iterator[str]:
        for candidate in dict.fromkeys(self._candidates(name)):
            info = self.checkpoint.tensors.get(candidate)
            if info is None or info.shape != tuple(parameter.shape):
                continue
            key = (candidate, id(parameter))
            if key not in self.compared:
                self.compared[key] = self._same_content(candidate, parameter)
            if self.compared[key]:
                yield candidate

    def _same_content(self, candidate: str, parameter: Tensor) -> bool:
        stored = self.checkpoint.read(candidate, dtype=parameter.dtype, device=parameter.device)
        return stored.dtype == parameter.dtype and bool(torch.equal(stored, parameter.detach()))

    def _candidates(self, name: str) -> Iterator[str]:
        for plain in _without_peft(name):
            for spelling in dict.fromkeys((plain, self.in_files.get(plain, plain))):
                yield spelling
                for prefix in self.prefixes:
                    yield spelling.removeprefix(prefix)
                    yield prefix + spelling


def _without_peft(name: str) -> Iterator[str]:
    """The name itself, and what it is called outside a PEFT wrapper."""
    yield name
    if not name.startswith(PEFT_PREFIX):
        return
    yield name.rpartition(".")[0]  # a vector `….ia3_l.<adapter>`
    left, _, leaf = name.rpartition(".")
    yield left.rpartition(".")[0] + "." + leaf  # `….lora_A.<adapter>.weight`, `….base_layer.weight`
    yield left.rpartition(".")[0]  # `….lora_magnitude_vector.<adapter>.weight` (DoRA)
    inside = name.removeprefix(PEFT_PREFIX)
    yield inside
    yield inside.replace(".base_layer.", ".")


def _prefixes(model: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What one side may carry before the names of the other: the body's attribute, or any first name part."""
    body = getattr(model, "base_model_prefix", "")
    firsts = [name.split(".")[0] for name in checkpoint.tensors]
    firsts += [name.split(".")[0] for name, _ in model.named_parameters()]
    return tuple(f"{part}." for part in dict.fromkeys((body, *firsts)) if part)
