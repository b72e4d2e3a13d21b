"""What LoRA adapters save beside their factors, whole: modules (`modules_to_save`), biases, heads. It is merged too.

    θ = θ_0 + Σ κ_i (θ_i − θ_0) = Σ κ_i θ_i + (1 − Σ κ_i) θ_0

over the adapters that save it; the others leave the base's values there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint
from mats.checkpoints.heads import is_head
from mats.checkpoints.lora import Lazy
from mats.engine.adapter_inputs import AdapterInputs
from mats.errors import RequestError, ShapeMismatch
from mats.methods.elementwise import is_mergeable, working_dtype

WHOLE = 1e-9  # what coefficients may miss 1 by and still leave nothing of the base


@dataclass(frozen=True)
class SavedPlan:
    """One tensor of the output that is stored whole.

    Attributes:
        name: as the adapters call it.
        stored: as the base's file does; None where it has no such tensor.
        placeholder: its shape and dtype in the output.
        parts: what is summed, with coefficients.
        rest: the base's coefficient.
        head: it belongs to a head, which follows `heads`.
    """

    name: str
    placeholder: Lazy
    parts: tuple[tuple[Lazy, float], ...]
    rest: float
    stored: str | None = None
    head: bool = False

    def merged(self, base: Checkpoint | None) -> Tensor:
        """The sum, in fp32 or better; what is not floating point is the first part as it is."""
        first = self.parts[0][0]
        if not is_mergeable(first.dtype):
            return first.read()
        total = torch.zeros(first.shape, dtype=working_dtype(first.dtype))
        for part, factor in self.parts:
            total.add_(part.read(), alpha=factor)
        if self.rest != 0:
            assert base is not None, "the plan has asked for the base"
            assert self.stored is not None, "the plan has found it there"
            total.add_(base.read(self.stored), alpha=self.rest)
        return total


def saved_names(inputs: AdapterInputs) -> list[str]:
    """Names in the base of everything that any adapter saves whole."""
    return list(dict.fromkeys(name for adapter in inputs.adapters for name in adapter.other))


def plan_saved(
    inputs: AdapterInputs, by_name: Mapping[str, tuple[float, ...]], dtype: torch.dtype | None
) -> tuple[SavedPlan, ...]:
    """Plan every tensor that is stored whole.

    Args:
        inputs: the adapters, and the base if one is given.
        by_name: κ of every model.
        dtype: of the output; None: as the first adapter stores it.

    Raises:
        RequestError: the base's values are needed, and there is no base, or it has no such tensor.
        ShapeMismatch: two adapters, or an adapter and the base, store different shapes.
    """
    plans = []
    for name in saved_names(inputs):
        coefficients = _of_head(inputs, name) or by_name[inputs.shown(name)]
        holders = [
            (model, adapter.other[name], factor)
            for model, adapter, factor in zip(inputs.names, inputs.adapters, coefficients, strict=True)
            if name in adapter.other and factor != 0
        ]
        if not holders:
            continue
        model, first, _ = holders[0]
        for other_model, other, _ in holders[1:]:
            _check_shape(name, f"model {other_model}", other.shape, f"model {model}", first.shape)
        rest = 1 - sum(factor for _, _, factor in holders)
        rest = 0.0 if abs(rest) < WHOLE else rest
        if rest != 0 and is_mergeable(first.dtype):
            _check_base(inputs, name, model, first)
        kept = dtype if dtype is not None and is_mergeable(first.dtype) else first.dtype
        parts = tuple((content, factor) for _, content, factor in holders)
        placeholder = Lazy(first.shape, kept, first.read)
        plans.append(SavedPlan(name, placeholder, parts, rest, inputs.stored(name), head=_is_kept_apart(inputs, name)))
    return tuple(plans)


def plan_kept(inputs: AdapterInputs, dense: Mapping[str, str], dtype: torch.dtype | None) -> tuple[SavedPlan, ...]:
    """What is stored whole beside factors cut from dense weights.

    What the base has is merged densely and comes without parts; what it lacks, a head, is that of the one adapter that
    has it, or follows `heads`.

    Raises:
        RequestError: several adapters have a head, and nothing says which to take.
    """
    plans = []
    for name in saved_names(inputs):
        holders = [
            (n, adapter.other[name])
            for n, adapter in zip(inputs.names, inputs.adapters, strict=True)
            if name in adapter.other
        ]
        content = holders[0][1]
        kept = Lazy(
            content.shape, dtype if dtype is not None and is_mergeable(content.dtype) else content.dtype, content.read
        )
        if name in dense:
            plans.append(SavedPlan(name, kept, (), 0.0))
            continue
        chosen = _of_head(inputs, name)
        if chosen is None and len(holders) > 1:
            raise RequestError(
                f"models {', '.join(model for model, _ in holders)}: save {name}, which the base does not have; "
                f"`heads: {{from: {holders[0][0]}}}` would take that of {holders[0][0]}"
            )
        factors = chosen or tuple(float(name in adapter.other) for adapter in inputs.adapters)
        parts = tuple(
            (adapter.other[name], factor)
            for adapter, factor in zip(inputs.adapters, factors, strict=True)
            if factor != 0 and name in adapter.other
        )
        if parts:
            plans.append(SavedPlan(name, kept, parts, 0.0, head=True))
    return tuple(plans)


def _is_kept_apart(inputs: AdapterInputs, name: str) -> bool:
    """Whether the request keeps the tensor out of the merge; patterns are of the base's names or the adapters' own."""
    heads = inputs.request.heads
    return heads is not None and any(is_head(each, heads.parameters) for each in (name, inputs.shown(name)))


def _of_head(inputs: AdapterInputs, name: str) -> tuple[float, ...] | None:
    """Coefficients of a head that `heads` keeps out of the merge: one model's own, the mean, or nothing."""
    heads = inputs.request.heads
    if heads is None or not _is_kept_apart(inputs, name):
        return None
    if heads.source in ("average", "base"):
        holders = [name in adapter.other for adapter in inputs.adapters]
        share = 1 / sum(holders) if heads.source == "average" else 0.0
        return tuple(share if held else 0.0 for held in holders)
    owner = inputs.names[0] if heads.source == "own" else heads.source
    return tuple(float(model == owner) for model in inputs.names)


def _check_base(inputs: AdapterInputs, name: str, model: str, first: Lazy) -> None:
    why = f"model {model}: saves {name} whole, and its merged value takes the base's with it"
    if inputs.base is None:
        raise RequestError(f"{why}; `base:` would be right, or `heads:` for a head")
    stored = inputs.stored(name)
    if stored is None:
        raise RequestError(
            f"{why}, which {inputs.base.name} does not have; `heads:` keeps a head out of the merge, and an average of "
            "adapters that all save it needs no base"
        )
    _check_shape(name, f"model {model}", first.shape, "the base", inputs.base.tensors[stored].shape)


def _check_shape(name: str, here: str, shape: tuple[int, ...], there: str, expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ShapeMismatch(
            f"{here}: {name} has shape {list(shape)}, {there} {list(expected)}; `heads:` keeps heads of different "
            "sizes apart"
        )
