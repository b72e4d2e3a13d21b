"""Changes to a model and to torch that measuring needs, each undone whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode with all parameters frozen; restore each module's mode and each parameter's flag."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def trainable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let `parameters` receive gradients for a while; their `.grad` is left as it came."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.grad = gradient
            parameter.requires_grad_(flag)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """Forbid TF32 in matrix products: its 10-bit mantissa would reach every sum."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(before)
