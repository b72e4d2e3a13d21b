"""A checkpoint's class without its weights: its layers and parameters by the names that they have in the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mats.checkpoints import Checkpoint
from mats.checkpoints.classes import model_class
from mats.checkpoints.renaming import names_in_files
from mats.curvature.rules import layer_rule
from mats.errors import RequestError
from mats.store import LayerRecord

MATRIX_KINDS = ("linear", "conv1d", "conv2d")


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device.

    Attributes:
        module: its class, without memory.
        names: name of a parameter in memory → name in the checkpoint, for those that the checkpoint has.
    """

    module: nn.Module
    names: dict[str, str]

    def layers(self) -> Iterator[LayerRecord]:
        """Every layer that is a matrix and whose weight the checkpoint has, each a site of its own."""
        for name, module in self.module.named_modules():
            rule = layer_rule(module)
            weight = self.names.get(f"{name}.weight")
            if rule is None or weight is None or rule.kind not in MATRIX_KINDS:
                continue
            bias = self.names.get(f"{name}.bias") if getattr(module, "bias", None) is not None else None
            yield LayerRecord(name, rule.kind, weight, bias, name, rule.layout, rule.out_size)


def skeleton_of(checkpoint: Checkpoint) -> Skeleton:
    """The skeleton of a whole model, by the class that its config names.

    Raises:
        RequestError: no config, a class that transformers does not have, or one whose code comes with the checkpoint.
    """
    config = checkpoint.config or {}
    wanted = (config.get("architectures") or [None])[0]
    if not wanted:
        raise RequestError(
            f"{checkpoint.path}: its config names no class (architectures); a model folder would be right"
        )
    if config.get("auto_map"):
        raise RequestError(f"{checkpoint.path}: {wanted} brings its own code, of which nothing is known here")
    with torch.device("meta"):
        module = _class_of(checkpoint, str(wanted))(_configuration(checkpoint, config))
    module.tie_weights()
    return Skeleton(module, _names(module, checkpoint))


def _configuration(checkpoint: Checkpoint, config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**config)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{checkpoint.path}: transformers knows no model_type {config.get('model_type')!r}"
        ) from error


def _class_of(checkpoint: Checkpoint, wanted: str) -> Any:
    import transformers

    if (found := model_class(wanted)) is None:
        raise RequestError(f"{checkpoint.path}: transformers {transformers.__version__} has no class {wanted}")
    return found


def _names(module: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """By name and shape: in memory, in files, or with the body's prefix more or less."""
    in_files = names_in_files(module)
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    names = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        spellings = dict.fromkeys((name, in_files.get(name, name)))
        for candidate in [form for each in spellings for form in (each, each.removeprefix(prefix), prefix + each)]:
            info = checkpoint.tensors.get(candidate)
            if info is not None and info.shape == tuple(parameter.shape):
                names[name] = candidate
                break
    return names
