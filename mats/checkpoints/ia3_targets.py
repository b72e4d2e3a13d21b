"""The modules that several (IA)³ adapters scale between them, as PEFT's configuration lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.dense_ia3 import is_feedforward
from mats.checkpoints.legacy import ia3_module, is_ia3_vector


def common_targets(adapters: Sequence[Checkpoint]) -> dict[str, Any]:
    """`target_modules` and `feedforward_modules` for the vectors of all; empty where the first adapter has them all."""
    scaled: dict[str, bool] = {}
    for adapter in adapters:
        for name, info in adapter.tensors.items():
            if is_ia3_vector(name):
                module = ia3_module(name)
                scaled.setdefault(module, is_feedforward(module, info.shape, adapter.config or {}))
    if all(name in adapters[0].tensors for adapter in adapters for name in adapter.tensors if is_ia3_vector(name)):
        return {}
    inputs = sorted(module for module, feedforward in scaled.items() if feedforward)
    return {"target_modules": sorted(scaled), "feedforward_modules": inputs}
