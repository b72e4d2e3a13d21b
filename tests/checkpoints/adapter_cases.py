"""Tiny bases with random PEFT adapters on disk, and the adapted model in float64 as PEFT runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import torch
from torch import Tensor, nn

from mats.checkpoints import Checkpoint, open_checkpoint
from mats.checkpoints.densify import DenseModel, changed_part, densify
from mats.checkpoints.overlay import overlay

TOLERANCE = 1e-9  # both sides in float64; only the order of summation differs


def save_pair(
    folder: Path,
    make: Callable[[], nn.Module],
    config: peft.PeftConfig,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> nn.Module:
    """Write `base/` and `adapter/` into `folder`; returns the adapted model in float64, in eval mode.

    Everything that an adapter trains is random and far from its start, so that no part of it can be left out unseen.
    """
    base = lively(make).to(dtype)
    if not (folder / "base").exists():
        base.save_pretrained(folder / "base")
    adapted: Any = peft.get_peft_model(base, config)
    scramble(adapted, seed)
    adapted.save_pretrained(folder / "adapter")
    result: nn.Module = adapted.double().eval()
    return result


def lively(make: Callable[[], nn.Module]) -> nn.Module:
    """A base whose weights are large enough for every layer to matter; biases that are not zero."""
    model = make()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def scramble(adapted: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if "magnitude" in name or "ia3_l" in name:
                parameter.mul_(1 + 0.3 * noise)
            elif parameter.requires_grad:
                parameter.add_(0.3 * noise)


def dense(folder: Path, at_least: torch.dtype | None = torch.float64) -> DenseModel:
    return densify(open_checkpoint(folder / "base"), open_checkpoint(folder / "adapter"), at_least=at_least)


def running(folder: Path, make: Callable[[], nn.Module]) -> nn.Module:
    """The dense model, run in float64 by the plain class."""
    model = make().double().eval()
    overlay(model, dense(folder))
    return model


def assert_same_forward(model: nn.Module, adapted: nn.Module, tolerance: float = TOLERANCE) -> None:
    expected = logits(adapted)
    torch.testing.assert_close(logits(model), expected, rtol=tolerance, atol=tolerance)


def logits(model: nn.Module) -> Tensor:
    return tiny.logits(model)


def changed(model: DenseModel) -> Mapping[str, Tensor]:
    part: Checkpoint = changed_part(model)
    return {name: part.read(name) for name in part.tensors}


def effective_weight(adapted: nn.Module, module: str) -> Tensor:
    """The weight that PEFT's forward applies, from its own answers to unit vectors."""
    layer = adapted.get_submodule(f"base_model.model.{module}")
    zero = torch.zeros(1, layer.in_features, dtype=torch.float64)
    with torch.no_grad():
        return (layer(torch.eye(layer.in_features, dtype=torch.float64)) - layer(zero)).T
