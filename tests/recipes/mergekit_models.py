"""Tiny checkpoints that merge files are tried on: four of a family, by transformers where mergekit reads them too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NAMES = ("base", "m1", "m2", "m3")


def llama_tensors(seed: int, *, layers: int = 4, hidden: int = 8, vocabulary: int = 12) -> dict[str, torch.Tensor]:
    """The tensors of a Llama without its class: names and shapes are what counts here."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {"model.embed_tokens.weight": draw(vocabulary, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{at}.self_attn.{part}.weight"] = draw(hidden, hidden)
        tensors[f"{at}.mlp.up_proj.weight"] = draw(hidden + 3, hidden)
        tensors[f"{at}.input_layernorm.weight"] = 1 + draw(hidden) / 10
    tensors["model.norm.weight"] = 1 + draw(hidden) / 10
    tensors["lm_head.weight"] = draw(vocabulary, hidden)
    return tensors


def write_llama(folder: Path, tensors: Mapping[str, torch.Tensor], **config: object) -> Path:
    """A model folder with these tensors."""
    folder.mkdir(parents=True)
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if ".layers." in name)
    settings = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False, **config}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def family(root: Path, dtype: torch.dtype = torch.float32, layers: int = 4) -> dict[str, Path]:
    """A base and three models fine-tuned from it, a little apart."""
    base = llama_tensors(0, layers=layers)
    paths = {}
    for index, name in enumerate(NAMES):
        noise = llama_tensors(index, layers=layers)
        tensors = {key: (value + (0.1 * noise[key] if index else 0)).to(dtype) for key, value in base.items()}
        paths[name] = write_llama(root / name, tensors)
    return paths


def transformers_family(root: Path, kind: str, dtype: torch.dtype = torch.float32) -> dict[str, Path]:
    """The same with all that mergekit wants to see: `llama`, `gpt2` or `t5`, made by transformers."""
    import copy

    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=False,
            )
        )
    elif kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4, n_positions=32))
    else:
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=64,
                d_model=32,
                d_ff=48,
                num_layers=3,
                num_heads=4,
                d_kv=8,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )
    paths = {}
    for index, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(index)
        tuned = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in tuned.parameters() if index else ():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        paths[name] = root / name
        tuned.to(dtype).save_pretrained(paths[name])
    return paths


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
