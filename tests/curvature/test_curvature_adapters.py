"""PEFT models: an adapter's own factors are layers, under its checkpoint's names, with Grams that follow exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from curvature_oracle import relative_error, written_out_loss
from torch import nn
from tried_architectures import BY_NAME, enlivened

from mats.checkpoints import open_checkpoint, parameter_names
from mats.curvature import CollectionPlan, CollectionSettings, collect
from mats.store.records import Sums

FORMS: dict[str, dict[str, Any]] = {"LoRA": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True}}
PLACES = {"Llama": ["q_proj", "v_proj", "down_proj"], "GPT-2": ["c_attn", "c_proj"]}
RANK, ALPHA = 3, 7


def adapted(family: str, **form: Any) -> nn.Module:
    """A small model under an adapter with random factors."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=PLACES[family], fan_in_fan_out=family == "GPT-2", **form
    )
    model = get_peft_model(BY_NAME[family].build(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.double()
    return enlivened(model, seed=4, size=0.1).double().eval()


def measured(model: nn.Module, folder: Path, family: str, *statistics: str) -> tuple[CollectionPlan, Sums, set[str]]:
    """What collection gives under the names of the saved adapter, and those names."""
    model.save_pretrained(folder)
    settings = CollectionSettings(statistics=statistics, homogeneous=False, accumulate_dtype="float64")
    with open_checkpoint(folder) as checkpoint:
        names = parameter_names(model, checkpoint)
        plan, sums = collect(model, [BY_NAME[family].batch(5)], settings, names)
        return plan, sums, set(checkpoint.tensors)


@pytest.mark.parametrize("family", PLACES)
@pytest.mark.parametrize("form", ["LoRA", "rsLoRA"])
def test_grams_of_factors_follow_from_those_of_the_adapted_layer(form: str, family: str, tmp_path: Path) -> None:
    model = adapted(family, **FORMS[form])
    scale = ALPHA / (RANK**0.5 if form == "rsLoRA" else RANK)
    plan, sums, stored = measured(model, tmp_path / "adapter", family, "input_gram", "output_gram")
    whole, base = collect(
        model,
        [BY_NAME[family].batch(5)],
        CollectionSettings(parameters=("*.base_layer.weight",), homogeneous=False, accumulate_dtype="float64"),
    )
    layers = {layer.weight: layer for layer in plan.layers}
    assert set(layers) == stored
    checked = 0
    for layer in whole.layers:
        path = layer.name.removesuffix(".base_layer")
        module = model.get_submodule(path)
        if not hasattr(module, "lora_A"):
            continue
        down, up = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
        a, g = base.tensors[f"input_gram/{layer.site}"], base.tensors[f"output_gram/{layer.name}"]
        first, second = (layers[f"{path}.lora_{leaf}.weight"] for leaf in "AB")
        expected = {
            f"input_gram/{first.site}": a,
            f"output_gram/{first.name}": scale**2 * up.T @ g @ up,
            f"input_gram/{second.site}": down @ a @ down.T,
            f"output_gram/{second.name}": scale**2 * g,
        }
        for key, value in expected.items():
            assert relative_error(sums.tensors[key], value) < 1e-10, key
        assert relative_error(sums.tensors[f"output_gram/{second.name}"], g) > 0.1  # the scale is not forgotten
        checked += 1
    assert checked == len(stored) // 2


@pytest.mark.parametrize("form", FORMS)
def test_per_example_gradients_of_every_adapter_tensor_equal_autograd(form: str, tmp_path: Path) -> None:
    model = adapted("Llama", **FORMS[form])
    plan, sums, stored = measured(model, tmp_path / "adapter", "Llama", "diagonal")
    assert set(plan.parameters) == stored
    with open_checkpoint(tmp_path / "adapter") as checkpoint:
        names = parameter_names(model, checkpoint)
    own = {names[name]: p.requires_grad_(True) for name, p in model.named_parameters() if name in names}
    squares = {name: torch.zeros_like(p) for name, p in own.items()}
    batch = BY_NAME["Llama"].batch(5)
    for number in range(batch.size):
        single = batch.select([number])
        loss = written_out_loss(single, model(**single.inputs).logits)
        for name, gradient in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            squares[name] += gradient**2
    for name, expected in squares.items():
        assert relative_error(sums.tensors[f"diagonal/{name}"], expected.detach()) < 1e-10, name
    if form == "DoRA":
        magnitudes = {name for name in stored if "magnitude" in name}
        assert magnitudes
        assert not magnitudes & plan.tapped


def test_a_frozen_adapter_name_that_is_not_in_the_file_is_told(tmp_path: Path) -> None:
    plan, _, _ = measured(adapted("Llama"), tmp_path / "adapter", "Llama", "input_gram")
    assert plan.notes["not in the checkpoint"].startswith("21 parameters, not measured: base_model.model.model.embed")
