"""Mixtures of experts whose weights are fused into one tensor, taken apart while they are measured.

transformers 5 holds the weights of all experts of a layer as `gate_up_proj` [E, 2·m, d] and `down_proj` [E, d, m] (or
their transposes). Curvature wants each expert by itself: its own input Gram, from the tokens routed to it, and its own
output Gram. So the fused parameters step aside for one small module per expert and matrix, whose weight is a view of
the same memory. Everything else then sees ordinary linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, overload

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

_NEEDED = ("has_gate", "has_bias", "is_transposed", "is_concatenated", "_apply_gate")


class ExpertLinear(nn.Module):
    """One matrix of one expert: x ↦ x Wᵀ + b, or x W + b where `transposed`.

    Attributes:
        weight: [out, in], or [in, out] where `transposed`; a view of the fused parameter.
        bias: [out] or None; a view likewise.
        tokens: int64 [n], which token each row of the present call is of.
        total: Number of tokens among which the router chose.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=bias.requires_grad))
        self.transposed = transposed
        self.out_features, self.in_features = weight.shape[::-1] if transposed else weight.shape
        self.tokens = torch.empty(0, dtype=torch.int64)
        self.total = 0

    def forward(self, rows: Tensor) -> Tensor:
        """Apply to rows [n, in]."""
        matrix = self.weight.T if self.transposed else self.weight
        return functional.linear(rows, matrix, self._parameters["bias"])


@contextmanager
def unfused_experts(model: nn.Module, names: Mapping[str, str] | None) -> Iterator[Mapping[str, str] | None]:
    """Take the experts of `model` apart, and put them together again at the end.

    Args:
        model: Any model.
        names: Parameter name in the model → name in the checkpoint, or None when they are the same.

    Yields:
        The names of the model as it is now; see `unfuse_experts_`.
    """
    fused = [module for module in model.modules() if is_fused(module)]
    kept = [dict(module._parameters) for module in fused]
    try:
        yield unfuse_experts_(model, names)
    finally:
        for module, parameters in zip(fused, kept, strict=True):
            _fuse_(module, parameters)


@overload
def unfuse_experts_(model: nn.Module, names: Mapping[str, str]) -> Mapping[str, str]: ...
@overload
def unfuse_experts_(model: nn.Module, names: Mapping[str, str] | None) -> Mapping[str, str] | None: ...
def unfuse_experts_(model: nn.Module, names: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Take the experts of `model` apart for good.

    Returns:
        `names` with those of the parts. A part that is a tensor of its own in files has its name in `names` already, as
        `….experts.3.gate_proj.weight`; a part of a fused tensor is called `<the tensor's name>[3]`.
    """
    found = [(path, module) for path, module in model.named_modules() if is_fused(module)]
    if not found:
        return names
    known = dict(names) if names is not None else {name: name for name, _ in model.named_parameters()}
    for path, module in found:
        known.update(_part_names(path, module, known))
        _unfuse_(module, gate_apart=f"{path}.0.gate_proj.weight" in known)
    return known


def is_fused(module: nn.Module) -> bool:
    """Whether `module` is one of transformers' fused experts, in a form that is understood."""
    if not all(hasattr(module, name) for name in _NEEDED):
        return False
    down = module._parameters.get("down_proj")
    if down is None or down.dim() != 3 or not down.is_floating_point():
        return False
    unusual = getattr(module, "has_post_expert_norm", False) or getattr(module, "_is_expert_parallel", False)
    return not unusual and set(module._parameters) <= {name for name, _ in _members(module)}


def _part_names(path: str, module: nn.Module, names: Mapping[str, str]) -> dict[str, str]:
    """Parameter of a part → what that part of a tensor that is fused in files is called."""
    found = {}
    for fused, leaf in _members(module):
        stored = names.get(f"{path}.{fused}")
        if stored is not None:
            for expert in range(_experts(module)):
                found[f"{path}.{expert}.{fused.removesuffix('_bias')}.{leaf}"] = f"{stored}[{expert}]"
    return found


def _experts(module: nn.Module) -> int:
    return len(module.get_parameter("down_proj"))


def _members(module: nn.Module) -> list[tuple[str, str]]:
    """Fused parameter → what it is to the layer of its name."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    pairs = [(first, "weight"), ("down_proj", "weight")]
    return pairs + ([(f"{first}_bias", "bias"), ("down_proj_bias", "bias")] if module.has_bias else [])


def _unfuse_(module: nn.Module, *, gate_apart: bool) -> None:
    """Give `module` a submodule per expert in place of its parameters, and a forward that uses them."""
    for number in range(_experts(module)):
        module.add_module(str(number), _expert(module, number, gate_apart))
    for name, _ in _members(module):
        del module._parameters[name]
    module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _fuse_(module: nn.Module, parameters: Mapping[str, nn.Parameter | None]) -> None:
    """Undo `_unfuse_`; the parts were views, so what was done to them was done to `parameters`."""
    for name in [name for name in module._modules if name.isdigit()]:
        del module._modules[name]
    module._parameters.update(parameters)
    module.__dict__.pop("forward", None)


def _expert(module: nn.Module, number: int, gate_apart: bool) -> nn.Module:
    """The layers of one expert."""
    expert = nn.Module()
    for name, _ in _members(module)[:2]:
        weight = module._parameters[name].data[number]  # type: ignore[union-attr]
        bias = module._parameters[f"{name}_bias"].data[number] if module.has_bias else None  # type: ignore[union-attr]
        if name == "gate_up_proj" and gate_apart:
            half = weight.shape[0] // 2
            for part, rows in (("gate_proj", slice(0, half)), ("up_proj", slice(half, None))):
                own = None if bias is None else bias[rows]
                expert.add_module(part, ExpertLinear(weight[rows], own, transposed=False))
        else:
            expert.add_module(name, ExpertLinear(weight, bias, transposed=bool(module.is_transposed)))
    return expert


def _forward(module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Σ_k weight_k · expert_k(token): every expert runs on the tokens that the router gave it, be they none.

    Args:
        module: The experts, taken apart.
        hidden_states: [tokens, d].
        top_k_index: [tokens, k] experts chosen for each token.
        top_k_weights: [tokens, k] how much each counts.
    """
    total = hidden_states.shape[0]
    result = torch.zeros_like(hidden_states)
    for number in range(sum(1 for name in module._modules if name.isdigit())):
        tokens, places = torch.where(top_k_index == number)
        outputs = _one_expert(module, module.get_submodule(str(number)), hidden_states[tokens], tokens, total)
        weighted = outputs * top_k_weights[tokens, places, None]
        result = result.index_add(0, tokens, weighted.to(result.dtype))
    return result


def _one_expert(module: Any, expert: Any, rows: Tensor, tokens: Tensor, total: int) -> Tensor:
    for layer in expert.children():
        layer.tokens, layer.total = tokens, total
    if not module.has_gate:
        return expert.down_proj(module.act_fn(expert.up_proj(rows)))  # type: ignore[no-any-return]
    if hasattr(expert, "gate_up_proj"):
        both = expert.gate_up_proj(rows)
    else:
        both = torch.cat([expert.gate_proj(rows), expert.up_proj(rows)], dim=-1)
    return expert.down_proj(module._apply_gate(both))  # type: ignore[no-any-return]
