"""The hooks of one batch: what each module's forward and backward contribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mats.curvature.gram import CountSum, GramSum, Rows, Selection
from mats.curvature.losses import model_logits
from mats.curvature.masks import Side, rows_mask
from mats.curvature.passes import Pass, passes
from mats.curvature.per_example import ParameterSum, Use
from mats.curvature.plan import CollectionPlan
from mats.curvature.rules import EmbeddingRule, Routing, layer_rule
from mats.curvature.sites import (
    first_argument,
    is_lookup,
    spread_over_examples,
    starting_graph,
    starting_inputs,
    tensor_identity,
)
from mats.curvature.taps import Tap, tap_of
from mats.data.batch import Batch
from mats.errors import InputsMismatch, WorkFailed

Measured = list[tuple[str, Tensor]]


@dataclass
class _Frame:
    """What belongs to one forward pass and its backward passes.

    Attributes:
        run: The pass.
        measured: Scalars (number of rows, Σ‖x‖⁴) in the order in which they arose.
        calls: Calls of each module so far.
        site_inputs: The tensors that sites were measured on, by (site, call).
        expected: Number of uses of each parameter in this forward pass.
        uses: Uses whose gradient has arrived in this backward pass.
        weights: Weights of the term running backwards.
        kurtosis: That of the term running backwards.
        is_last_term: Whether what was kept for gradients can be let go.
        selections: Which rows count, by side, shape and device of the activations.
        awaited: Where the forward pass may be cut short: the calls still to come of each layer that is measured.
    """

    run: Pass
    measured: Measured
    calls: dict[str, int] = field(default_factory=dict)
    site_inputs: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    weights: Tensor | None = None
    kurtosis: float = 1.0
    is_last_term: bool = False
    selections: dict[tuple[Side, tuple[int, ...], torch.device], Selection | None] = field(default_factory=dict)
    awaited: dict[str, int] = field(default_factory=dict)

    def mask(self, side: Side) -> Tensor | None:
        """The mask of one side."""
        return self.run.batch.target_mask if side == "target" else self.run.batch.input_mask


class BatchHooks:
    """Attaches to a model whatever one partition of a plan needs, and runs batches through it."""

    def __init__(
        self,
        model: nn.Module,
        plan: CollectionPlan,
        inputs: Mapping[str, GramSum | CountSum],
        outputs: Mapping[str, GramSum],
        per_example: Mapping[str, ParameterSum],
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        self.model = model
        self.plan = plan
        self.inputs = inputs
        self.outputs = outputs
        self.per_example = per_example
        self.layers = {layer.name: layer for layer in plan.layers}
        self._tapped = {id(parameters[name]): name for name in per_example if name in plan.tapped}
        self.needs_gradients = bool(outputs) or bool(self._tapped)
        self.needs_model = self.needs_gradients or bool(inputs)
        self.counts_calls = len(plan.partitions) > 1
        self.starts_at_inputs = False
        self._awaited = self._calls_to_await()
        self._frame: _Frame | None = None
        self._handles: list[Any] = []

    def _calls_to_await(self) -> dict[str, int]:
        """Where no gradients are asked for in one of several passes: each layer measured, and how often it is called.

        After them nothing of the forward pass is of use.
        """
        if self.needs_gradients or not self.counts_calls:
            return {}
        return {name: len(self.plan.sides[name]) for name, layer in self.layers.items() if layer.site in self.inputs}

    def install(self) -> None:
        """Hook the modules that this partition needs."""
        hooks = [(_ModuleHook(self, name, module), module) for name, module in self.model.named_modules()]
        self.starts_at_inputs = any(
            hook.tapped and hook.tap is not None and hook.tap.watches_input for hook, _ in hooks
        )
        for hook, module in hooks:
            hook.starts_graph |= self.starts_at_inputs and is_lookup(module)
            if hook.is_needed or hook.starts_graph:
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
                if hook.tap is not None and hook.tapped:
                    self._handles += hook.tap.extra_hooks()

    def remove(self) -> None:
        """Leave the model without hooks."""
        self._frame = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def tapped_parameters(self, tap: Tap) -> dict[str, str]:
        """Of a tap's parameters, those this partition measures: tap's name → checkpoint name."""
        return {
            local: self._tapped[id(parameter)]
            for local, parameter in tap.parameters.items()
            if id(parameter) in self._tapped
        }

    def run(self, batch: Batch) -> Measured:
        """Run all passes of a batch; return its scalars on the device, [2] each: rows and Σ‖x‖⁴."""
        measured: Measured = []
        if not self.needs_model:
            return measured
        for run in passes(self.model, batch, self.plan.settings):
            self._frame = _Frame(run, measured)
            try:
                self._run_pass(self._frame)
            finally:
                self._frame = None
        return measured

    def _run_pass(self, frame: _Frame) -> None:
        with torch.set_grad_enabled(self.needs_gradients):
            frame.awaited = dict(self._awaited)
            try:
                inputs = frame.run.batch.inputs
                # They start the graph where a gradient is read before any layer's output.
                logits = model_logits(self.model, starting_inputs(inputs) if self.starts_at_inputs else inputs)
            except _EnoughSeen:
                return
            if not self.needs_gradients:
                return
            terms = list(frame.run.terms(logits))
        for index, term in enumerate(terms):
            frame.weights, frame.kurtosis = term.weights, term.kurtosis
            frame.is_last_term = index == len(terms) - 1
            frame.measured.append(("check:the loss", _check_value(term.losses)))
            torch.autograd.backward([term.losses.sum()], retain_graph=not frame.is_last_term)
            self._flush(frame)

    # -- forward -------------------------------------------------------------------------------------------------------

    def on_forward(self, hook: _ModuleHook, inputs: Tensor, output: Tensor) -> Tensor | None:
        """Measure what a module reads; watch the gradient of what it writes."""
        frame = self._frame
        if frame is None:
            return None
        call = frame.calls.get(hook.name, 0)
        frame.calls[hook.name] = call + 1
        self._check_calls(hook, call)
        is_measured = hook.layer is None or self._side(hook, call) is not None
        chosen = self._selection(hook, frame, call, inputs) if is_measured else None
        if hook.site is not None and is_measured:
            with torch.no_grad():
                self._measure_inputs(hook, frame, call, inputs, chosen)
        if not self.needs_gradients:
            _count_down(frame, hook.name)
            return None
        replaced = None
        if hook.starts_graph and not output.requires_grad and output.is_floating_point():
            replaced = output = starting_graph(output)
        if hook.tapped:
            inputs, spread = spread_over_examples(hook.module, inputs, output, frame.run.batch.size)
            if spread is not output:
                replaced = output = spread
        if hook.reads_gradient:
            self._watch(hook, frame, inputs, output, chosen, with_gram=is_measured)
        return replaced

    def _check_calls(self, hook: _ModuleHook, call: int) -> None:
        """Hold every batch to the calls of the first: passes that are cut short rely on them."""
        if self.counts_calls and hook.layer is not None and call >= len(self.plan.sides[hook.name]):
            raise WorkFailed(
                f"{hook.name}: call {call + 1} in one forward pass; the first batch had {call}, and passes over "
                "the data may end after so many; measure in one pass, without memory_budget"
            )

    def _side(self, hook: _ModuleHook, call: int) -> Side | None:
        """Whose mask the rows of a layer's call take; None where it reads what all examples share."""
        sides = self.plan.sides[hook.name]
        if call >= len(sides) and len(set(sides)) > 1:
            raise WorkFailed(f"{hook.name}: call {call + 1} in one forward pass; the first batch had {len(sides)}")
        return sides[min(call, len(sides) - 1)]

    def _selection(self, hook: _ModuleHook, frame: _Frame, call: int, inputs: Tensor) -> Selection | None:
        """Which rows of a layer's call count; None: all."""
        if hook.layer is None or hook.rule is None:
            return None
        side = self._side(hook, call)
        if side is None:
            return None
        leading = hook.rule.leading_shape(inputs)
        key = side, leading, inputs.device
        if key not in frame.selections:
            mask = rows_mask(hook.name, leading, frame.run.batch.size, frame.mask(side), side)
            frame.selections[key] = None if mask is None else Selection(mask.to(inputs.device))
        return frame.selections[key]

    def _measure_inputs(
        self, hook: _ModuleHook, frame: _Frame, call: int, inputs: Tensor, chosen: Selection | None
    ) -> None:
        """Add to the site's Gram where this layer owns the site; else check that the site is still shared."""
        assert hook.site is not None
        assert hook.rule is not None
        identity = tensor_identity(inputs)
        if hook.site != hook.name:
            if frame.site_inputs.get((hook.site, call)) != identity:
                raise InputsMismatch(
                    f"{hook.name}: reads another input than {hook.site}, though not in the first batch"
                )
            return
        frame.site_inputs[hook.site, call] = identity
        rows = hook.rule.input_rows(inputs, frame.run.batch.size)
        routing, weights = hook.rule.routing(), frame.run.weights
        if routing is not None:
            chosen, weights = _routed(routing, chosen), routing.weights(weights)
        total = self.inputs[hook.site]
        if isinstance(total, CountSum):
            scale = hook.rule.scale if isinstance(hook.rule, EmbeddingRule) else 1.0
            scalars = total.add(rows, None if chosen is None else chosen.mask, weights, scale)
        else:
            scalars = total.add(Rows(rows, chosen, weights), scaled=False)
        frame.measured.append((f"site:{hook.site}", scalars))

    def _watch(
        self,
        hook: _ModuleHook,
        frame: _Frame,
        inputs: Tensor,
        output: Tensor,
        chosen: Selection | None,
        *,
        with_gram: bool,
    ) -> None:
        """Ask for the gradients that the output Gram and the per-example statistics need."""
        if with_gram and hook.name in self.outputs:
            routing = None if hook.rule is None else hook.rule.routing()
            output.register_hook(lambda delta: self._measure_outputs(hook, frame, delta, chosen, routing))
        if hook.tap is None or not hook.tapped:
            return
        for parameter in hook.tapped.values():
            frame.expected[parameter] = frame.expected.get(parameter, 0) + 1
        watched, tensor = hook.tap.capture(inputs, output)
        kept = _Kept(tensor, tensor._version)
        watched.register_hook(lambda delta: self._receive(hook, frame, kept, delta))

    # -- backward ------------------------------------------------------------------------------------------------------

    def _measure_outputs(
        self, hook: _ModuleHook, frame: _Frame, delta: Tensor, chosen: Selection | None, routing: Routing | None
    ) -> None:
        if frame is not self._frame or hook.rule is None:
            return
        rows = hook.rule.gradient_rows(delta.detach(), frame.run.batch.size)
        weights = frame.weights
        if routing is not None:
            chosen, weights = _routed(routing, chosen), routing.weights(weights)
        scalars = self.outputs[hook.name].add(Rows(rows, chosen, weights), scaled=True)
        if frame.kurtosis != 1.0:
            scalars = torch.stack([scalars[0], scalars[1] * frame.kurtosis])
        frame.measured.append((f"layer:{hook.name}", scalars))

    def _receive(self, hook: _ModuleHook, frame: _Frame, kept: _Kept, delta: Tensor) -> None:
        """Turn a gradient into uses; a parameter whose last use this is adds up at once."""
        if frame is not self._frame or hook.tap is None:
            return
        assert kept.tensor is not None
        if kept.tensor._version != kept.version:
            raise WorkFailed(f"{hook.name}: the model changed its input in place after the call; its gradient is lost")
        uses = hook.tap.uses(kept.tensor, delta.detach(), frame.run.batch.size, self.plan.settings.dtype)
        if frame.is_last_term:
            kept.tensor = None
        frame.measured.append((f"check:the gradient at {hook.name}", _check_value(delta)))
        for local, parameter in hook.tapped.items():
            arrived = frame.uses.setdefault(parameter, [])
            arrived.append(uses[local])
            if len(arrived) == frame.expected[parameter]:
                self._add_up(frame, parameter)

    def _add_up(self, frame: _Frame, parameter: str) -> None:
        self.per_example[parameter].add(frame.uses.pop(parameter), frame.run.batch.size)

    def _flush(self, frame: _Frame) -> None:
        """Add up parameters some of whose calls received no gradient."""
        with torch.no_grad():
            for parameter in list(frame.uses):
                self._add_up(frame, parameter)


class _EnoughSeen(BaseException):
    """Ends a forward pass of which nothing more is needed; no error, so no model's `except Exception` may stop it."""


def _count_down(frame: _Frame, name: str) -> None:
    """Note a call; after the last one awaited the forward pass ends.

    Raises:
        _EnoughSeen: nothing more is needed.
    """
    if name in frame.awaited:
        frame.awaited[name] -= 1
        if frame.awaited[name] == 0:
            del frame.awaited[name]
            if not frame.awaited:
                raise _EnoughSeen


@dataclass
class _Kept:
    """An activation held from the forward pass until its last gradient, and its version when it was taken."""

    tensor: Tensor | None
    version: int


class _ModuleHook:
    """A forward hook with what is known of its module."""

    def __init__(self, owner: BatchHooks, name: str, module: nn.Module) -> None:
        self.owner = owner
        self.name = name
        self.layer = owner.layers.get(name)
        self.module = module
        self.rule = layer_rule(module)
        measured = self.layer is not None and self.layer.site in owner.inputs
        self.site = self.layer.site if measured and self.layer is not None else None
        self.tap = tap_of(module)
        self.tapped = {} if self.tap is None else owner.tapped_parameters(self.tap)
        self.reads_gradient = name in owner.outputs or bool(self.tapped)
        # Autograd's graph begins at the first layer whose gradients are read: nothing before it has a backward pass.
        self.starts_graph = self.reads_gradient
        counted = owner.counts_calls and self.layer is not None
        self.is_needed = self.site is not None or self.reads_gradient or counted

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        """Called by torch after the module's forward."""
        if not isinstance(output, Tensor):
            return None
        return self.owner.on_forward(self, first_argument(args, kwargs), output)


def _routed(routing: Routing, chosen: Selection | None) -> Selection | None:
    """Which of the routed rows count."""
    mask = None if chosen is None else routing.mask(chosen.mask)
    return None if mask is None else Selection(mask)


def _check_value(tensor: Tensor) -> Tensor:
    """A scalar in the place of Σ‖x‖⁴ that is finite exactly when `tensor` is."""
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    total = tensor.detach().sum(-1, dtype=wide).sum(dtype=torch.float64)  # no copy of it all in float64
    return torch.stack([torch.zeros_like(total), total])
