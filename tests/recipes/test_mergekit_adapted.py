"""`model+adapter` and tied heads in merge files: whole results against float64 sums written out here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from mats.engine import merge
from mats.errors import InputsMismatch
from mats.recipes.mergekit.importing import Options, merge_file_request
from mats.yaml_reader import read_yaml

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
HALF_STEP = 2.0**-9
"""Half the distance of neighbouring bfloat16 numbers, relative to a number of magnitude just above a power of two."""


def tiny_llama(folder: Path, seed: int, *, tied: bool = True) -> Path:
    """A bfloat16 model of two layers with a tokenizer's file beside it; of other seeds: moved a little."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += (seed * 0.02 * torch.randn(parameter.shape, generator=generator)).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return folder


def adapter_on(base: Path, folder: Path, seed: int, modules: list[str]) -> Path:
    """A LoRA adapter saved by PEFT, factors of float32."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=modules, init_lora_weights=False)
    )
    model.save_pretrained(folder)
    return folder


def content(folder: Path) -> dict[str, Tensor]:
    """A model in float64, its head under its own name whether it is tied or not."""
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors.setdefault(HEAD, tensors[EMBEDDING])
    return tensors


def adapted(base: Path, folder: Path) -> dict[str, Tensor]:
    """W + s·B·A in float64, from the adapter's file."""
    config = json.loads((folder / "adapter_config.json").read_text())
    factors = load_file(folder / "adapter_model.safetensors")
    tensors = content(base)
    for name in [name for name in factors if name.endswith("lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        update = factors[name.replace("lora_A", "lora_B")].double() @ factors[name].double()
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + config["lora_alpha"] / config["r"] * update
    return tensors


def carried_out(file: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(file))
    return merge(merge_file_request(read_yaml(path), Options(tmp_path / "out", device="cpu"))).path


def assert_rounded_once(out: Path, expected: dict[str, Tensor]) -> None:
    """Every number is the nearest bfloat16 of what is expected (sums themselves are in float32)."""
    received = load_file(out / "model.safetensors")
    assert set(received) == set(expected)
    for name, wanted in expected.items():
        assert received[name].dtype == torch.bfloat16
        step = 2.0 ** torch.frexp(wanted).exponent.double() * HALF_STEP
        assert ((received[name].double() - wanted).abs() <= step + 1e-6).all(), name


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_adapters_without_a_base_model_are_whole_models(tmp_path: Path, order: tuple[int, int]) -> None:
    base = tiny_llama(tmp_path / "base", 0)
    folders = [
        adapter_on(base, tmp_path / "head", 1, ["q_proj", "lm_head"]),
        adapter_on(base, tmp_path / "inner", 2, ["q_proj"]),
    ]
    models = [{"model": f"{base}+{folders[index]}", "parameters": {"weight": 0.3 + 0.4 * index}} for index in order]
    out = carried_out({"merge_method": "linear", "models": models}, tmp_path)
    first, second = (adapted(base, folder) for folder in folders)
    assert_rounded_once(out, {name: 0.3 * first[name] + 0.7 * second[name] for name in first})
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"], config["dtype"]) == ("llama", False, "bfloat16")
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 77


def test_a_head_that_an_adapter_unties_is_merged_as_the_file_says(tmp_path: Path) -> None:
    base, other = tiny_llama(tmp_path / "base", 0), tiny_llama(tmp_path / "other", 1)
    head = adapter_on(base, tmp_path / "head", 1, ["lm_head"])
    file = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [
            {"model": f"{base}+{head}", "parameters": {"weight": 0.5}},
            {"model": str(other), "parameters": {"weight": 0.25}},
        ],
    }
    zero, first, second = content(base), adapted(base, head), content(other)
    assert_rounded_once(
        carried_out(file, tmp_path),
        {name: zero[name] + 0.5 * (first[name] - zero[name]) + 0.25 * (second[name] - zero[name]) for name in zero},
    )


@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_a_tied_first_model_has_a_head_beside_an_untied_one(tmp_path: Path, layers: list[int] | None) -> None:
    tied, untied = tiny_llama(tmp_path / "tied", 0), tiny_llama(tmp_path / "untied", 1, tied=False)
    sources = [
        {"model": str(path), **({} if layers is None else {"layer_range": layers}), "parameters": {"weight": weight}}
        for path, weight in ((tied, 0.25), (untied, 0.75))
    ]
    stack: dict[str, Any] = {"models": sources} if layers is None else {"slices": [{"sources": sources}]}
    out = carried_out({"merge_method": "linear", **stack}, tmp_path)
    ours, theirs = content(tied), content(untied)
    assert_rounded_once(out, {name: 0.25 * ours[name] + 0.75 * theirs[name] for name in ours})


def test_layers_of_an_adapted_model_are_stacked_with_its_configuration(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", 0)
    model = f"{base}+{adapter_on(base, tmp_path / 'head', 1, ['q_proj', 'lm_head'])}"
    slices = [{"sources": [{"model": model, "layer_range": picked}]} for picked in ([0, 2], [1, 2])]
    out = carried_out({"merge_method": "passthrough", "slices": slices}, tmp_path)
    expected = adapted(base, tmp_path / "head")
    again = {name.replace("layers.1.", "layers.2."): t for name, t in expected.items() if "layers.1." in name}
    assert_rounded_once(out, {**expected, **again})
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 3


def test_own_methods_take_adapters_on_their_models(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", 0)
    folders = [adapter_on(base, tmp_path / str(seed), seed, ["q_proj"]) for seed in (1, 2)]
    file = {"merge_method": "average", "models": [{"model": f"{base}+{folder}"} for folder in folders]}
    expected = [adapted(base, folder) for folder in folders]
    half = {name: (expected[0][name] + expected[1][name]) / 2 for name in expected[0] if name != HEAD}
    assert_rounded_once(carried_out(file, tmp_path), half)


def test_tensors_without_settings_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    models = [{"model": str(tiny_llama(tmp_path / str(seed), seed))} for seed in (1, 2)]
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": models, "parameters": {"weight": 1}}))
    request = merge_file_request(read_yaml(path), Options(tmp_path / "out", device="cpu"))
    assignments = {name: value for name, value in request.assignments.items() if name != EMBEDDING}
    with pytest.raises(InputsMismatch, match=f"nothing says how to merge 1 tensors.*{EMBEDDING}"):
        merge(replace(request, assignments=assignments))
