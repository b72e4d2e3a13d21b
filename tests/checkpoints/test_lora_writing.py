"""LoRA adapters written: what PEFT loads is what was meant, module by module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import pytest
import torch
from adapter_cases import assert_same_forward, lively, save_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mats.checkpoints import LoraModule, open_checkpoint, open_lora, write_lora_adapter
from mats.checkpoints.lora_config import config_for, pattern_value, scaling
from mats.errors import NonFiniteWeights, OutputExists, RequestError

PLAIN = {"r": 3, "lora_alpha": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "patterns": {
        "target_modules": ["query", "dense"],
        "rank_pattern": {"query": 2, "layer.1.output.dense": 5},
        "alpha_pattern": {"layer.0.*query": 7, "pooler.dense": 1},
        "use_rslora": True,
    },
    "dora": {"target_modules": ["query", "dense"], "use_dora": True},
    "biases_and_head": {
        "target_modules": ["query", "word_embeddings"],
        "bias": "all",
        "modules_to_save": ["classifier"],
    },
    "lora_bias": {"target_modules": ["query"], "lora_bias": True},
    "trained_biases_of_adapted_layers": {"target_modules": ["query", "dense"], "bias": "lora_only"},
}


def reloaded(folder: Path) -> nn.Module:
    """The written adapter on a fresh base, by PEFT, in float64."""
    result = peft.PeftModel.from_pretrained(lively(tiny.bert), folder).double().eval()
    assert isinstance(result, nn.Module)
    return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_r06_rank_pattern_reload(tmp_path: Path, variant: str) -> None:
    adapted = save_pair(tmp_path, tiny.bert, peft.LoraConfig(**{**PLAIN, **VARIANTS[variant]}))
    with open_lora(tmp_path / "adapter") as adapter:
        write_lora_adapter(tmp_path / "written", adapter.modules, adapter.config, adapter.other)
    assert_same_forward(reloaded(tmp_path / "written"), adapted)
    with open_lora(tmp_path / "adapter") as first, open_lora(tmp_path / "written") as second:
        assert list(first.modules) == list(second.modules)
        assert list(first.other) == list(second.other)


def test_r03_scale_once(tmp_path: Path) -> None:
    """A module from factors in memory: PEFT's own delta weight is s·B·A."""
    save_pair(tmp_path, tiny.bert, peft.LoraConfig(target_modules=["query"], **PLAIN))
    factors: dict[str, tuple[Tensor, Tensor, float]] = {}
    for layer in range(2):
        name = f"bert.encoder.layer.{layer}.attention.self.query"
        factors[name] = (torch.randn(layer + 1, 16), torch.randn(16, layer + 1), 1.7 + layer)
    modules = {name: LoraModule.of(name, A, B, scaling=s) for name, (A, B, s) in factors.items()}
    with open_checkpoint(tmp_path / "base") as base:
        write_lora_adapter(tmp_path / "written", modules, {}, base=base)
    config = json.loads((tmp_path / "written" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["task_type"] is None  # under SEQ_CLS, PEFT would look for a head, and there is none
    loaded: Any = reloaded(tmp_path / "written")
    for name, (A, B, s) in factors.items():
        delta = loaded.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(delta, s * B.double() @ A.double(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(modules[name].update(), s * B.double() @ A.double(), rtol=1e-12, atol=1e-12)


def test_one_written_name_does_not_match_another(tmp_path: Path) -> None:
    """A module whose name ends as another's: each keeps its own rank and scaling, in PEFT's own look-up."""
    from peft.utils.other import get_pattern_key

    modules = {"encoder.q": (2, 1.5), "q": (3, 0.25), "decoder.encoder.q": (4, 4.0), "xencoder.q": (2, 0.5)}
    config = config_for({}, modules)
    for name, (rank, scale) in modules.items():
        ranks, alphas = config["rank_pattern"], config["alpha_pattern"]
        assert ranks.get(get_pattern_key(ranks, name), config["r"]) == rank
        alpha = alphas.get(get_pattern_key(alphas, name), config["lora_alpha"])
        assert alpha / rank == pytest.approx(scale, rel=1e-12)
        assert scaling(config, name, rank) == pytest.approx(scale, rel=1e-12)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["layer", "1", "12", "q", "qq", "proj"]), min_size=1, max_size=3).map(".".join),
        st.integers(1, 9),
        max_size=4,
    ),
    st.lists(st.sampled_from(["layer", "1", "12", "q", "qq", "proj"]), min_size=1, max_size=4).map(".".join),
)
def test_patterns_are_looked_up_as_peft_does(patterns: dict[str, int], module: str) -> None:
    from peft.utils.other import get_pattern_key

    assert pattern_value(patterns, module, 0) == patterns.get(get_pattern_key(list(patterns), module), 0)


def test_what_no_configuration_can_say_is_refused(tmp_path: Path) -> None:
    A, B = torch.ones(2, 4), torch.ones(4, 2)
    plain = LoraModule.of("a", A, B)
    biased = LoraModule.of("b", A, B, bias=torch.ones(4))
    with pytest.raises(RequestError, match="some modules have a bias of B, others none"):
        write_lora_adapter(tmp_path / "out", {"a": plain, "b": biased}, {})
    with pytest.raises(RequestError, match="it has no module"):
        write_lora_adapter(tmp_path / "out", {}, {})
    assert not (tmp_path / "out").exists()


def test_it_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    A, B = torch.ones(2, 4), torch.ones(4, 2)
    bad = {"a": LoraModule.of("a", A, B), "b": LoraModule.of("b", A, B * torch.inf)}
    with pytest.raises(NonFiniteWeights, match=r"lora_B\.weight"):
        write_lora_adapter(tmp_path / "out", bad, {})
    assert not (tmp_path / "out").exists()
    good = {name: LoraModule.of(name, 2 * A, B) for name in "ab"}
    write_lora_adapter(tmp_path / "out", good, {})  # after a run that stopped in between
    with open_lora(tmp_path / "out") as adapter:
        assert all(torch.equal(module.A, 2 * A) for module in adapter.modules.values())
    with pytest.raises(OutputExists, match="exists already"):
        write_lora_adapter(tmp_path / "out", good, {})
