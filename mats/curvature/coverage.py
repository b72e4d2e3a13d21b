"""Run a few examples once and compare what the hooks see with autograd's own weight gradients.

For every tapped parameter, Σ_n c_n g_n from the hooks must equal the gradient of Σ_n c_n loss_n: with c = 1 this proves
that all uses of the parameter are seen, with random c that each row is credited to its own example. The check finds
parametrised weights, weights used outside their module, tied weights and unusual calling conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mats.curvature.losses import model_logits
from mats.curvature.passes import passes
from mats.curvature.per_example import Use
from mats.curvature.settings import GRAM_STATISTICS, CollectionSettings
from mats.curvature.sites import CallRecorder, first_argument, is_lookup, spread_over_examples, starting_graph
from mats.curvature.state import frozen_evaluation, full_precision_products, trainable
from mats.curvature.taps import LayerTap, Tap
from mats.data.batch import Batch
from mats.errors import MatsError, ShapeMismatch, is_out_of_memory

_COEFFICIENTS = (0.7, 1.9, -1.3, 0.4, 1.1)


@dataclass
class Examination:
    """What one look at the model showed.

    Attributes:
        recorder: The calls of every layer.
        no_gradient: Parameters (by identity) that received no gradient.
        wrong_sum: Parameters whose hooks miss part of the gradient, with the relative error.
        wrong_examples: Parameters whose rows cannot be credited to examples.
        errors: Relative error of Σ δ aᵀ for every parameter that hooks read and whose gradient is more than rounding.
        spread: Names of lookups made once for the whole batch, seen as one for each example.
    """

    recorder: CallRecorder
    no_gradient: set[int] = field(default_factory=set)
    wrong_sum: dict[int, float] = field(default_factory=dict)
    wrong_examples: set[int] = field(default_factory=set)
    errors: dict[int, float] = field(default_factory=dict)
    spread: frozenset[str] = frozenset()


def examination_batch(batch: Batch) -> Batch:
    """Three to five examples, repeated if there are fewer: with one, what the whole batch shares looks like its own.

    As many as no sequence is long, so that a table over positions does not look like one over examples.
    """
    lengths = {tensor.shape[1] for tensor in (batch.input_mask, batch.target_mask) if tensor is not None}
    count = next(count for count in (3, 4, 5) if count not in lengths)
    return batch.select([position % batch.size for position in range(count)])


def examine(
    model: nn.Module,
    taps: Mapping[str, Tap],
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    settings: CollectionSettings,
) -> Examination:
    """Look at the model's calls and gradients on a few examples of `batch`.

    Lookups that the whole batch shares are spread over the examples; a model that does not bear it is looked at again.

    Args:
        model: The model; it leaves as it came.
        taps: Taps by module name.
        parameters: The parameters to check and to ask for gradients, by name.
        batch: On the model's device.
        settings: For the labels and the loss.
    """
    spread: set[str] = set()
    try:
        return _examine(model, taps, parameters, batch, settings, spread)
    except MatsError:
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not spread or is_out_of_memory(error):
            raise
        return _examine(model, taps, parameters, batch, settings, None)


def _examine(
    model: nn.Module,
    taps: Mapping[str, Tap],
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    settings: CollectionSettings,
    spread: set[str] | None,
) -> Examination:
    """One look; `spread` collects the names of lookups that are spread, None: none may be."""
    floating = [parameter for parameter in parameters.values() if parameter.is_floating_point()]
    with ExitStack() as stack:
        stack.enter_context(frozen_evaluation(model))
        stack.enter_context(full_precision_products())
        stack.enter_context(trainable(floating))
        stack.enter_context(torch.enable_grad())
        first = next(passes(model, examination_batch(batch), settings))
        wanted = {id(parameter) for parameter in floating}
        sketches = _Sketches(first.batch, taps, wanted, _layers_with_grams(taps, wanted, settings), spread)
        stack.callback(sketches.remove_hooks)
        sketches.install(model)
        logits = model_logits(model, first.batch.inputs)
        sketches.listening = False
        sketches.recorder.judge_calls()
        losses = next(first.terms(logits)).losses
        examination = Examination(sketches.recorder, spread=frozenset(spread or ()))
        found = _gradient_sketches(floating, losses, torch.ones_like(losses), sketches, retain=True)
        weighted = _gradient_sketches(
            floating, losses, losses.new_tensor(_COEFFICIENTS[: len(losses)]), None, retain=False
        )
    for parameter in floating:
        _judge(examination, parameter, found.get(id(parameter)), weighted.get(id(parameter)), sketches)
    return examination


def _layers_with_grams(taps: Mapping[str, Tap], wanted: set[int], settings: CollectionSettings) -> frozenset[str]:
    """Layers whose Grams are asked for, so that their masks must fit."""
    if not settings.wants(*GRAM_STATISTICS):
        return frozenset()
    layers = {name: tap for name, tap in taps.items() if isinstance(tap, LayerTap)}
    return frozenset(name for name, tap in layers.items() if id(tap.parameters["weight"]) in wanted)


def _gradient_sketches(
    parameters: list[nn.Parameter], losses: Tensor, coefficients: Tensor, sketches: _Sketches | None, *, retain: bool
) -> dict[int, Tensor]:
    """Autograd's gradient of Σ c_n loss_n, each parameter's reduced and freed as soon as it is complete."""
    found: dict[int, Tensor] = {}

    def reduce(parameter: Tensor) -> None:
        assert parameter.grad is not None
        found[id(parameter)] = _sketch(parameter.grad)
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(reduce) for parameter in parameters]
    if sketches is not None:
        sketches.watching = True
    try:
        torch.autograd.backward([(losses * coefficients).sum()], retain_graph=retain)
    finally:
        if sketches is not None:
            sketches.watching = False
        for handle in handles:
            handle.remove()
    return found


def _sketch(gradient: Tensor) -> Tensor:
    """A matrix times one random vector, or a vector itself: tells two gradients apart in little memory."""
    gradient = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    wide = gradient.to(torch.float64 if gradient.dtype == torch.float64 else torch.float32)
    if wide.dim() < 2:
        return wide.reshape(-1)
    flat = wide.reshape(wide.shape[0], -1)
    generator = torch.Generator().manual_seed(flat.shape[1])
    probe = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    return flat @ probe.to(flat)


class _Sketches:
    """Hooks that record calls and reduce each use of a parameter to its sketch."""

    def __init__(
        self,
        batch: Batch,
        taps: Mapping[str, Tap],
        wanted: set[int],
        measured: frozenset[str],
        spread: set[str] | None,
    ) -> None:
        self.batch = batch
        self.taps = taps
        self.wanted = wanted
        self.spread = spread
        self.recorder = CallRecorder(batch, measured)
        self.listening = True
        self.watching = False
        self.plain: dict[int, Tensor] = {}
        self.weighted: dict[int, Tensor] = {}
        self.scales: dict[int, Tensor] = {}
        self.ungroupable: set[int] = set()
        self._handles: list[Any] = []

    def install(self, model: nn.Module) -> None:
        """Hook every tapped module and every embedding."""
        for name, module in model.named_modules():
            tap = self.taps.get(name)
            if tap is not None:
                self._handles += tap.extra_hooks()
            if tap is not None or is_lookup(module):
                self._handles.append(module.register_forward_hook(self._hook(name, module, tap), with_kwargs=True))

    def remove_hooks(self) -> None:
        """Leave the model without hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str, module: nn.Module, tap: Tap | None) -> Any:
        def forward_hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self.listening or not isinstance(output, Tensor):
                return None
            inputs = first_argument(args, kwargs)
            replaced = None
            if is_lookup(module):
                if not output.requires_grad:
                    replaced = output = starting_graph(output)
                self.recorder.note_embedding(inputs, output)
            if isinstance(tap, LayerTap):
                self.recorder.note_call(name, tap.rule, inputs)
            if tap is not None and self.spread is not None:
                shared = inputs
                inputs, output = spread_over_examples(module, inputs, output, self.batch.size)
                if inputs is not shared:
                    self.spread.add(name)
                    replaced = output
            if tap is not None:
                watched, kept = tap.capture(inputs, output)
                if watched.requires_grad:
                    watched.register_hook(lambda delta: self._on_gradient(tap, kept, delta))
            return replaced

        return forward_hook

    def _on_gradient(self, tap: Tap, kept: Tensor, delta: Tensor) -> None:
        if not self.watching:
            return
        dtype = torch.float64 if delta.dtype == torch.float64 else torch.float32
        identities = [id(parameter) for parameter in tap.parameters.values()]
        uses = _uses_or_none(tap, kept, delta, self.batch.size, dtype)
        if uses is None:  # rows that do not divide by examples still add up to the right sum
            self.ungroupable.update(identities)
            uses = _uses_or_none(tap, kept, delta, 1, dtype) or {}
        for name, use in uses.items():
            identity = id(tap.parameters[name])
            if identity in self.wanted:
                self._add(identity, use, grouped=identity not in self.ungroupable)

    def _add(self, identity: int, use: Use, *, grouped: bool) -> None:
        scale = use.scale()
        ones = scale.new_ones(self.batch.size if grouped else 1)
        _accumulate(self.plain, identity, _sketch(use.total(ones)))
        _accumulate(self.scales, identity, scale)
        if grouped:
            _accumulate(self.weighted, identity, _sketch(use.total(scale.new_tensor(_COEFFICIENTS[: self.batch.size]))))


def _uses_or_none(tap: Tap, kept: Tensor, delta: Tensor, examples: int, dtype: torch.dtype) -> dict[str, Use] | None:
    """What the tap makes of a gradient; None when the shapes are not what it was made for."""
    try:
        return tap.uses(kept, delta, examples, dtype)
    except ShapeMismatch:
        return None


def _accumulate(table: dict[int, Tensor], key: int, value: Tensor) -> None:
    table[key] = table[key] + value if key in table else value


def _judge(
    examination: Examination,
    parameter: nn.Parameter,
    plain: Tensor | None,
    weighted: Tensor | None,
    sketches: _Sketches,
) -> None:
    """Compare one parameter's sketches and note what does not agree."""
    identity = id(parameter)
    if plain is None:
        examination.no_gradient.add(identity)
        return
    if identity not in sketches.plain:  # it has a gradient, and no hook saw any of it
        examination.wrong_sum[identity] = 1.0
        return
    error, fits, is_rounding = _agree(parameter.dtype, plain, sketches.plain[identity], sketches.scales[identity])
    if not fits:
        examination.wrong_sum[identity] = error
    elif not is_rounding:
        examination.errors[identity] = error
    grouped = identity in sketches.weighted and identity not in sketches.ungroupable and weighted is not None
    if not grouped or not _agree(parameter.dtype, weighted, sketches.weighted[identity], sketches.scales[identity])[1]:
        examination.wrong_examples.add(identity)


def _agree(dtype: torch.dtype, expected: Tensor | None, seen: Tensor, scale: Tensor) -> tuple[float, bool, bool]:
    """The relative error, whether rounding explains it, and whether the gradient itself is no more than rounding.

    Gradients that cancel (of a key bias, which softmax does not see) are pure rounding: the error is also judged
    against the size of what was added up. Some models compute norms in float32 whatever their dtype.
    """
    assert expected is not None
    tolerance = {torch.float64: 1e-5, torch.float32: 1e-3}.get(dtype, 5e-2)
    rounding = 8 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    error = float((expected - seen).norm())
    size = float(expected.norm())
    # A random probe of norm √k stretches a matrix's size by about as much.
    floor = rounding * float(scale) * seen.numel() ** 0.5
    return error / max(size, 1e-300), error <= tolerance * size + floor, size <= floor
