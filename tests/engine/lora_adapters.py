"""Tiny LoRA adapters made by PEFT itself, their updates in fp64, and a folder's update as PEFT computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from engine_families import make_model, save
from torch import Tensor

from mats.checkpoints.lora import open_lora
from mats.engine import MergeRequest, ModelInput
from mats.methods.adapter_settings import AdapterSettings


def make_base(root: Path, family: str = "t5") -> Path:
    """A base of `family` on disk."""
    if not (root / "base").exists():
        model = make_model(family, 0)
        model.config.architectures = [type(model).__name__]
        save(model, root / "base")
    return root / "base"


def make_lora(root: Path, name: str, seed: int, *, family: str = "t5", **options: Any) -> Path:
    """An adapter with random factors, biases of B included, saved by PEFT."""
    from peft import LoraConfig, get_peft_model

    base = make_base(root, family)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]} | options
    torch.manual_seed(seed)
    plain = make_model(family, 0)
    plain.name_or_path = str(base)
    model = get_peft_model(plain, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name or "modules_to_save" in parameter_name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(root / name)
    return root / name


def updates(folder: Path) -> dict[str, Tensor]:
    """Module → s·B·A in fp64, through our reader."""
    with open_lora(folder) as adapter:
        return {name: module.update() for name, module in adapter.modules.items()}


def updates_by_peft(folder: Path, root: Path, family: str = "t5") -> dict[str, Tensor]:
    """Module → how much its weight changes when PEFT loads the folder and merges it into the base, fp64."""
    from peft import PeftModel

    plain = make_model(family, 0).double()
    before = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    merged = PeftModel.from_pretrained(plain, str(folder), torch_dtype=torch.float64).double().merge_and_unload()
    changes = {name: parameter.detach() - before[name] for name, parameter in merged.named_parameters()}
    return {name: change for name, change in changes.items() if change.abs().max() > 0}


def request_of(
    folders: dict[str, Path],
    weights: list[float],
    output: Path,
    method: Any,
    adapters: dict[str, Any] | None = None,
    **options: Any,
) -> MergeRequest:
    """A merge of adapters into an adapter."""
    models = tuple(
        ModelInput(name, str(folder), weight) for (name, folder), weight in zip(folders.items(), weights, strict=True)
    )
    return MergeRequest(models, method, output, adapters=AdapterSettings.model_validate(adapters or {}), **options)
