"""What is compared: a training step without its update, ours, and the way of the published code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mats.curvature import CollectionSettings, Collector, plan_collection
from mats.curvature.losses import example_losses, model_logits, scored_positions
from mats.data.batch import Batch

Step = Callable[[Batch], None]


@dataclass(frozen=True)
class Contender:
    """A way to go through the examples.

    Attributes:
        label: Its row in the table.
        batch_size: Examples in a batch.
        prepare: Readies a model; what it yields takes one batch. Preparing is not timed.
    """

    label: str
    batch_size: int
    prepare: Callable[[nn.Module, Batch], Any]


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the examples' losses: what every contender runs backwards."""
    return example_losses(*scored_positions(batch, model_logits(model, batch.inputs)), "mean").sum()


@contextmanager
def training_step(model: nn.Module, first: Batch) -> Iterator[Step]:
    """Forward and backward with the gradients of all weights."""
    del first
    model.eval().requires_grad_(True)

    def step(batch: Batch) -> None:
        model.zero_grad(set_to_none=True)
        batch_loss(model, batch).backward()

    yield step
    model.zero_grad(set_to_none=True)


def linear_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of the weights and biases of all linear layers."""
    return tuple(
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        for kind in module._parameters
    )


def gram_settings(model: nn.Module) -> CollectionSettings:
    """Both Grams of all linear layers, but for the output Gram of a head over the vocabulary."""
    vocabulary = getattr(model.config, "vocab_size", 1 << 30)
    widths = [module.out_features for module in model.modules() if isinstance(module, nn.Linear)]
    limit = max((width for width in widths if width != vocabulary), default=1)
    return CollectionSettings(("input_gram", "output_gram"), parameters=linear_weights(model), output_gram_limit=limit)


def diagonal_settings(model: nn.Module) -> CollectionSettings:
    """The diagonal of every parameter."""
    del model
    return CollectionSettings(("diagonal",))


def ours(settings_of: Callable[[nn.Module], CollectionSettings]) -> Callable[[nn.Module, Batch], Any]:
    """Our collector with the settings that `settings_of` makes for a model."""

    @contextmanager
    def prepare(model: nn.Module, first: Batch) -> Iterator[Step]:
        plan = plan_collection(model, first, settings_of(model))
        with Collector(model, plan) as collector:
            yield collector.add

    return prepare


@contextmanager
def published(model: nn.Module, first: Batch) -> Iterator[Step]:
    """Hooks and a full backward per batch of one: xᵀx and δᵀδ of every layer by itself, as full products."""
    del first
    model.eval().requires_grad_(True)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    vocabulary = getattr(model.config, "vocab_size", None)

    def add(table: dict[str, Tensor], name: str, rows: Tensor) -> None:
        flat = rows.detach().flatten(0, -2)
        product = flat.T @ flat
        table[name] = table[name] + product if name in table else product

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):

                def forward(_module: Any, args: Any, _output: Any, name: str = name) -> None:
                    add(inputs, name, args[0])

                def backward(_module: Any, _inputs: Any, deltas: Any, name: str = name) -> None:
                    add(outputs, name, deltas[0])

                stack.callback(module.register_forward_hook(forward).remove)
                if module.out_features != vocabulary:
                    stack.callback(module.register_full_backward_hook(backward).remove)

        def step(batch: Batch) -> None:
            model.zero_grad(set_to_none=True)
            batch_loss(model, batch).backward()

        yield step
    model.zero_grad(set_to_none=True)


def contenders(large: int) -> dict[str, Contender]:
    """All of them; `large` is the batch size of those that can."""
    return {
        "step": Contender(f"training step, batch {large}", large, training_step),
        "grams": Contender(f"ours: both Grams, batch {large}", large, ours(gram_settings)),
        "diagonal": Contender(f"ours: diagonal, batch {large}", large, ours(diagonal_settings)),
        "step-1": Contender("training step, batch 1", 1, training_step),
        "grams-1": Contender("ours: both Grams, batch 1", 1, ours(gram_settings)),
        "published-1": Contender("the published way: both Grams, batch 1", 1, published),
    }
