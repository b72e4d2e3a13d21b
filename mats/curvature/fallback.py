"""Exact gradients of single examples for parameters that no tap can read.

Relative position tables, position embeddings shared by the batch, class tokens, grouped convolutions: each example is
run by itself. That costs one more forward and backward per example, whatever the number of such parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mats.curvature.losses import model_logits
from mats.curvature.passes import passes
from mats.curvature.per_example import DenseUse, ParameterSum
from mats.curvature.settings import CollectionSettings
from mats.curvature.state import trainable
from mats.data.batch import Batch


def add_example_gradients(
    model: nn.Module,
    batch: Batch,
    settings: CollectionSettings,
    parameters: Mapping[str, nn.Parameter],
    sums: Mapping[str, ParameterSum],
) -> list[tuple[str, Tensor]]:
    """Add every example's gradient of `parameters` to `sums`.

    Args:
        model: Frozen, in eval mode.
        batch: On the model's device.
        settings: Labels and loss.
        parameters: Parameters by checkpoint name.
        sums: Accumulators by the same names.

    Returns:
        For each loss, what it is and a scalar [2] on the device that is finite exactly when the loss is.
    """
    checks: list[tuple[str, Tensor]] = []
    targets = list(parameters.values())
    with trainable(targets), torch.enable_grad():
        for position in range(batch.size):
            for loss, gradients in _gradients(model, batch.select([position]), settings, targets):
                checks.append((f"check:the loss of {batch.example_ids[position]}", loss))
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        wide = gradient.detach().to(settings.dtype)[None]
                        sums[name].add([DenseUse(wide)], 1)
    return checks


def _gradients(
    model: nn.Module, example: Batch, settings: CollectionSettings, targets: list[nn.Parameter]
) -> Iterator[tuple[Tensor, tuple[Tensor | None, ...]]]:
    """The loss (twice, in float64) and the gradients of each backward pass of one example."""
    for run in passes(model, example, settings):
        terms = list(run.terms(model_logits(model, run.batch.inputs)))
        for index, term in enumerate(terms):
            last = index == len(terms) - 1
            loss = term.losses.sum()
            gradients = torch.autograd.grad(loss, targets, retain_graph=not last, allow_unused=True)
            yield loss.detach().double().expand(2), gradients
