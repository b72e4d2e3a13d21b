"""How many bytes of activations one batch keeps until its backward pass is through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mats.curvature.losses import model_logits
from mats.curvature.sites import is_lookup, starting_graph, starting_inputs
from mats.curvature.state import frozen_evaluation
from mats.data.batch import Batch


def kept_activation_bytes(model: nn.Module, batch: Batch) -> int:
    """Bytes that autograd keeps after the forward pass of `batch`, weights frozen, gradients from the first layer on.

    Each piece of memory counts once, weights and buffers do not. Works on the `meta` device as well, where nothing is
    computed. What a layer needs only while it runs, and statistics that keep their inputs (`diagonal`, `block`), come
    on top.

    Args:
        model: The model; it leaves as it came.
        batch: On the model's device.
    """
    with frozen_evaluation(model):
        return kept_bytes(model, lambda: model_logits(model, starting_inputs(batch.inputs)))


def model_bytes(module: nn.Module) -> int:
    """Bytes of all weights and buffers; what is shared counts once."""
    tensors = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps after `forward` of the frozen `model`, each embedding starting a graph."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # held, so that no memory is used again while it is counted

    def note(tensor: Tensor) -> Tensor:
        identity = tensor.untyped_storage()._cdata
        if identity not in own:
            kept[identity] = tensor
        return tensor

    def start(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        return starting_graph(output) if isinstance(output, Tensor) and not output.requires_grad else None

    handles = [module.register_forward_hook(start) for module in model.modules() if is_lookup(module)]
    try:
        with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
            logits = forward()
    finally:
        for handle in handles:
            handle.remove()
    del logits
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
