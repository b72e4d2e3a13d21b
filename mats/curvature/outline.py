"""What measuring would take of a model that is not there: shapes and operation counts, no weights and no numbers.

The model is built from its configuration under torch's fake tensors, which have shapes and no memory, so an outline of
a model of any size takes seconds. One forward and one backward pass are gone through in it; hooks note every layer that
has a Gram, and torch's own counter of operations says how much had been computed when it ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mats.curvature.activations import kept_bytes, model_bytes
from mats.curvature.losses import logits_of
from mats.curvature.rules import EmbeddingRule, LayerRule, layer_rule
from mats.curvature.sites import first_argument, is_lookup, starting_graph, starting_inputs
from mats.errors import RequestError


@dataclass
class LayerOutline:
    """One layer: its Grams, and how far the passes have come when it runs.

    Attributes:
        name: Of the module.
        site: The first layer that reads the same input.
        in_size: Size of the input Gram; of the table for an embedding.
        out_size: Size of the output Gram.
        counts: Whether its input Gram is a vector of counts.
        rows: Rows of one batch.
        forward: Operations of the forward pass up to and with this layer.
        backward: Operations of the backward pass until the gradient at its output is there.
    """

    name: str
    site: str
    in_size: int
    out_size: int
    counts: bool
    rows: int
    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Outline:
    """A model on paper.

    Attributes:
        parameters: How many there are.
        bytes: Of weights and buffers.
        layers: With Grams, in the order in which the model runs them.
        forward: Operations of one forward pass over a batch (a multiplication and an addition count two).
        backward: Of one backward pass for activations alone, from the loss down to the first layer.
        activations: Bytes kept from forward to backward.
    """

    parameters: int
    bytes: int
    layers: tuple[LayerOutline, ...]
    forward: int
    backward: int
    activations: int


def outline(build: Callable[[], nn.Module], inputs: Callable[[], Mapping[str, Tensor]]) -> Outline:
    """Go once through a model that `build` makes, on what `inputs` makes; both are called under fake tensors.

    Raises:
        RequestError: the model's course depends on its numbers (routers of experts), which are not there.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FakeTensorMode():
        model = build().eval().requires_grad_(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):  # whose products the counter knows
                layers, forward, backward = _operations(model, inputs())
            kept = _kept_bytes(model, inputs())
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            name = type(model).__name__
            raise RequestError(
                f"{name}: what it computes depends on its numbers ({error}), so it cannot be planned from its "
                "configuration; mats save-metadata RECIPE --dry-run on the real model would be right"
            ) from error
        size, count = model_bytes(model), sum(p.numel() for p in model.parameters())
        return Outline(count, size, tuple(layers), forward, backward, kept)


def _operations(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[list[LayerOutline], int, int]:
    """Every layer with its place in both passes; the operations of each pass."""
    batch_size = len(next(iter(inputs.values())))
    with FlopCounterMode(display=False) as counter, _noting_layers(model, _Notes(counter, batch_size)) as notes:
        logits = logits_of(model(**starting_inputs(inputs)))
        notes.forward = counter.get_total_flops()
        logits.sum().backward()
        backward = counter.get_total_flops() - notes.forward
    return list(notes.layers.values()), notes.forward, backward


class _Notes:
    """What the hooks have seen."""

    def __init__(self, counter: FlopCounterMode, batch_size: int) -> None:
        self.counter = counter
        self.batch_size = batch_size
        self.forward = 0
        self.layers: dict[str, LayerOutline] = {}
        self._sites: dict[tuple[Any, ...], str] = {}
        self._inputs: list[Tensor] = []  # held, so that no address is used twice

    def note(self, name: str, rule: LayerRule, inputs: Tensor, output: Tensor) -> None:
        """One call of a layer; a table of positions, which are no example's own, has no Gram."""
        if isinstance(rule, EmbeddingRule) and len(inputs) != self.batch_size:
            return
        rows = inputs.numel() if isinstance(rule, EmbeddingRule) else output.numel() // rule.out_size
        if name in self.layers:
            self.layers[name].rows += rows
        else:
            self._inputs.append(inputs)
            counts = isinstance(rule, EmbeddingRule)
            site = self._sites.setdefault((counts, rule.in_size, inputs.untyped_storage()._cdata), name)
            size = rule.in_size + int(not counts and rule.module._parameters.get("bias") is not None)
            self.layers[name] = LayerOutline(name, site, size, rule.out_size, counts, rows)
        layer = self.layers[name]
        layer.forward = self.counter.get_total_flops()
        if output.requires_grad:
            output.register_hook(lambda _delta: self._arrived(layer))

    def _arrived(self, layer: LayerOutline) -> None:
        layer.backward = self.counter.get_total_flops() - self.forward


@contextmanager
def _noting_layers(model: nn.Module, notes: _Notes) -> Iterator[_Notes]:
    """Hooks on all layers that have a rule; embeddings start the graph."""

    def hook_of(name: str, rule: LayerRule | None) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                return None
            started = starting_graph(output) if is_lookup(module) and not output.requires_grad else None
            if rule is not None:
                notes.note(name, rule, first_argument(args, kwargs), output if started is None else started)
            return started

        return hook

    handles = []
    for name, module in model.named_modules():
        rule = layer_rule(module)
        if rule is not None or is_lookup(module):
            handles.append(module.register_forward_hook(hook_of(name, rule), with_kwargs=True))
    try:
        yield notes
    finally:
        for handle in handles:
            handle.remove()


def _kept_bytes(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    return kept_bytes(model, lambda: logits_of(model(**starting_inputs(inputs))))
