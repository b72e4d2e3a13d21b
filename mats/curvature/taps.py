"""Where per-example gradients of a module's own parameters can be read while a batch runs.

A tap names a tensor whose gradient is watched, keeps what the forward pass must keep, and turns both into uses of its
parameters. Parameters without a tap are measured by `fallback`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mats.curvature.per_example import LookupUse, OuterUse, Use, VectorUse
from mats.curvature.rules import EmbeddingRule, LayerRule, by_example, layer_rule
from mats.errors import ShapeMismatch


class Tap(ABC):
    """Reads the gradients of some parameters at one module.

    Attributes:
        parameters: The parameters read, by a name of the tap's own.
        watches_input: Whether it watches what the module reads, so that the graph must begin before the module.
    """

    parameters: dict[str, nn.Parameter]
    watches_input = False

    @abstractmethod
    def capture(self, inputs: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tensor whose gradient to watch, and the tensor to keep until then."""

    @abstractmethod
    def uses(self, kept: Tensor, delta: Tensor, examples: int, dtype: torch.dtype) -> dict[str, Use]:
        """The uses of the parameters, from what was kept and the watched gradient."""

    def extra_hooks(self) -> list[Any]:
        """Hooks that the tap needs besides the forward hook of its module; the caller removes them."""
        return []


class LayerTap(Tap):
    """Weight and bias of a layer that has a rule."""

    def __init__(self, rule: LayerRule) -> None:
        self.rule = rule
        self.parameters = {name: p for name, p in rule.module._parameters.items() if p is not None}

    def capture(self, inputs: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """See `Tap`."""
        return output, inputs.detach()

    def uses(self, kept: Tensor, delta: Tensor, examples: int, dtype: torch.dtype) -> dict[str, Use]:
        """See `Tap`."""
        deltas = self.rule.gradient_rows(delta, examples).to(dtype)
        rows = self.rule.input_rows(kept, examples)
        if (routing := self.rule.routing()) is not None:
            deltas, rows = routing.by_example(deltas, examples), routing.by_example(rows, examples)
        shape = self.parameters["weight"].shape
        found: dict[str, Use] = {}
        if isinstance(self.rule, EmbeddingRule):
            found["weight"] = LookupUse(rows, deltas * self.rule.scale, shape, self.rule.module.padding_idx)
        else:
            found["weight"] = OuterUse(rows.to(dtype), deltas, self.rule.layout, shape)
        if "bias" in self.parameters:
            found["bias"] = VectorUse(deltas, self.parameters["bias"].shape)
        return found


class NormTap(Tap):
    """Scale and shift of a layer norm or RMS norm: y = x̂ ∘ w + b (or x̂ ∘ (1 + w)), so ∂/∂w = Σ_t δ_t ∘ x̂_t."""

    def __init__(self, module: nn.Module, epsilon: float, centred: bool) -> None:
        self.epsilon = epsilon
        self.centred = centred
        self.parameters = {name: p for name, p in module._parameters.items() if p is not None}

    def capture(self, inputs: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """See `Tap`."""
        return output, inputs.detach()

    def uses(self, kept: Tensor, delta: Tensor, examples: int, dtype: torch.dtype) -> dict[str, Use]:
        """See `Tap`."""
        rows = by_example(kept, examples).to(dtype)
        deltas = by_example(delta, examples).to(dtype)
        if rows.shape[-1] != self.parameters["weight"].numel():
            raise ShapeMismatch(f"a norm over {self.parameters['weight'].numel()} features read {tuple(kept.shape)}")
        if self.centred:
            rows = rows - rows.mean(-1, keepdim=True)
        normalised = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + self.epsilon)
        found: dict[str, Use] = {"weight": VectorUse(deltas * normalised, self.parameters["weight"].shape)}
        if "bias" in self.parameters:
            found["bias"] = VectorUse(deltas, self.parameters["bias"].shape)
        return found


class Ia3Tap(Tap):
    """A vector of PEFT's (IA)³: y = (W x) ∘ l, or for feed-forward layers y = W (x ∘ l)."""

    def __init__(self, module: nn.Module, vector: nn.Parameter) -> None:
        self.base: nn.Module = module.get_submodule("base_layer")
        self.feedforward = self.watches_input = bool(module.is_feedforward)
        self.parameters = {"vector": vector}
        self.inner: list[tuple[Tensor, Tensor]] = []

    def extra_hooks(self) -> list[Any]:
        """Note what the inner layer reads and writes; the outer module's hook, which runs next, takes it."""

        def note(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self.inner = [(args[0], output)]

        return [self.base.register_forward_hook(note)]

    def capture(self, inputs: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """See `Tap`."""
        scaled_input, unscaled_output = self.inner.pop()
        if self.feedforward:
            return scaled_input, inputs.detach()
        return output, unscaled_output.detach()

    def uses(self, kept: Tensor, delta: Tensor, examples: int, dtype: torch.dtype) -> dict[str, Use]:
        """See `Tap`."""
        product = by_example(kept, examples).to(dtype) * by_example(delta, examples).to(dtype)
        return {"vector": VectorUse(product, self.parameters["vector"].shape)}


def tap_of(module: nn.Module) -> Tap | None:
    """The tap of `module`, or None."""
    rule = layer_rule(module)
    if rule is not None:
        return LayerTap(rule)
    return _norm_tap(module) or _ia3_tap(module)


def _norm_tap(module: nn.Module) -> NormTap | None:
    """Layer norms, and RMS norms by their name; the coverage check judges whether the guess is right."""
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 1 or not set(module._parameters) <= {"weight", "bias"}:
        return None
    if isinstance(module, nn.LayerNorm):
        return NormTap(module, module.eps, centred=True)
    name = type(module).__name__
    if "RMSNorm" not in name and not name.endswith("LayerNorm"):
        return None
    epsilon = next(
        (getattr(module, field) for field in ("variance_epsilon", "eps", "epsilon") if hasattr(module, field)), None
    )
    if epsilon is None and isinstance(module, getattr(nn, "RMSNorm", ())):
        epsilon = torch.finfo(weight.dtype).eps
    return None if epsilon is None else NormTap(module, float(epsilon), centred=False)


def _ia3_tap(module: nn.Module) -> Ia3Tap | None:
    """PEFT's (IA)³ around a linear layer, with one active adapter."""
    # Only a model with adapters has loaded PEFT, which takes seconds to import.
    ia3_linear = getattr(sys.modules.get("peft.tuners.ia3.layer"), "Linear", None)
    if ia3_linear is None or not isinstance(module, ia3_linear):
        return None
    active = [name for name in module.active_adapters if name in module.ia3_l]
    if len(active) != 1 or module.merged or module.disable_adapters:
        return None
    return Ia3Tap(module, module.ia3_l[active[0]])
