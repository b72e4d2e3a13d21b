"""LoRA adapters as whole models: every variant against PEFT's own unmerged forward, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import pytest
import torch
from adapter_cases import TOLERANCE, assert_same_forward, dense, lively, logits, running, save_pair
from torch import nn

PLAIN = {"r": 3, "lora_alpha": 5}

VARIANTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "bert": (tiny.bert, {"target_modules": ["query", "dense"]}),
    "rslora": (tiny.bert, {"target_modules": ["query"], "use_rslora": True}),
    "patterns": (
        tiny.bert,
        {
            "target_modules": ["query", "dense"],
            "rank_pattern": {"query": 2, "layer.1.output.dense": 5},
            "alpha_pattern": {"layer.0.*query": 7, "pooler.dense": 1},
        },
    ),
    "dora": (tiny.bert, {"target_modules": ["query", "dense"], "use_dora": True}),
    "lora_bias": (tiny.bert, {"target_modules": ["query", "dense"], "lora_bias": True}),
    "bias_all": (tiny.bert, {"target_modules": ["query"], "bias": "all"}),
    "bias_lora_only": (tiny.bert, {"target_modules": ["query"], "bias": "lora_only"}),
    "both_biases": (tiny.bert, {"target_modules": ["query"], "bias": "all", "lora_bias": True}),
    "saved_head": (tiny.bert, {"target_modules": ["query"], "modules_to_save": ["classifier"]}),
    "conv1d": (lambda: tiny.gpt2(True), {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d_flag_wrong": (lambda: tiny.gpt2(True), {"target_modules": ["c_attn", "c_proj"]}),
    "conv1d_dora": (lambda: tiny.gpt2(True), {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "embedding": (tiny.bert, {"target_modules": ["word_embeddings", "query"]}),
    "embedding_dora": (tiny.bert, {"target_modules": ["word_embeddings", "query"], "use_dora": True}),
    "conv2d": (tiny.vit, {"target_modules": ["projection", "q_proj"]}),
    "conv2d_dora": (tiny.vit, {"target_modules": ["projection", "fc1"], "use_dora": True}),
    "t5": (lambda: tiny.t5(False), {"target_modules": ["q", "v", "wo", "lm_head"]}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_r01_identity_adapter(tmp_path: Path, variant: str) -> None:
    make, settings = VARIANTS[variant]
    adapted = save_pair(tmp_path, make, peft.LoraConfig(**{**PLAIN, **settings}))
    model = running(tmp_path, make)
    assert_same_forward(model, adapted)
    untouched = lively(make).double().eval()
    assert (logits(untouched) - logits(adapted)).abs().max() > 1e-2  # the adapter does something
