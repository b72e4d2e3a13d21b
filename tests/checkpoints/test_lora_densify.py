"""LoRA adapters as whole models: every variant against PEFT's own unmerged forward, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import pytest
import torch
from adapter_cases import assert_same_forward, dense, effective_weight, lively, logits, running, save_pair
from torch import Tensor, nn

from mats.checkpoints import Checkpoint, densify, on_one_base, open_checkpoint
from mats.checkpoints.checkpoint import Stored
from mats.errors import InputsMismatch

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


@pytest.mark.parametrize(
    ("make", "target"),
    [(lambda: tiny.gpt2(True), "lm_head"), (lambda: tiny.gpt2(True), "wte"), (lambda: tiny.t5(True), "lm_head")],
    ids=["gpt2_head", "gpt2_embedding", "t5_head"],
)
def test_r07_tied_head_adapter(tmp_path: Path, make: Callable[[], nn.Module], target: str) -> None:
    """An adapter on one of two tied weights takes them apart; the other stays what it was."""
    adapted = save_pair(tmp_path, make, peft.LoraConfig(target_modules=[target, "c_attn", "q"], **PLAIN))
    model = dense(tmp_path)
    assert set(model.untied) == {"lm_head.weight"}
    assert_same_forward(running(tmp_path, make), adapted)
    with open_checkpoint(tmp_path / "base") as base:
        assert "lm_head.weight" not in base.tensors
        twin = model.untied["lm_head.weight"]
        kept = "lm_head.weight" if target == "wte" else twin
        assert torch.equal(model.read(kept).float(), base.read(twin))
        shown, (view,) = on_one_base(base, [open_checkpoint(tmp_path / "adapter")])
        assert torch.equal(shown.read("lm_head.weight"), shown.read(twin))  # so that a merge keeps both
        assert not torch.equal(view.read("lm_head.weight"), view.read(twin))


def test_r07_one_of_several_tied_embeddings_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, lambda: tiny.t5(True), peft.LoraConfig(target_modules=["shared"], **PLAIN))
    with pytest.raises(InputsMismatch, match=r"adapts shared\.weight alone, which the base base shares with encoder"):
        dense(tmp_path)


def test_r07_a_tie_that_cannot_be_looked_up_is_not_guessed(tmp_path: Path) -> None:
    save_pair(tmp_path, lambda: tiny.llama(True), peft.LoraConfig(target_modules=["embed_tokens"], **PLAIN))
    assert set(dense(tmp_path).untied) == {"lm_head.weight"}
    file = tmp_path / "base" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "architectures": ["AClassOfItsOwn"]}))
    with pytest.raises(InputsMismatch, match="ties an output head to it cannot be told"):
        dense(tmp_path)
    file.write_text(json.dumps({**config, "architectures": ["AClassOfItsOwn"], "tie_word_embeddings": False}))
    assert set(dense(tmp_path).untied) == set()


def test_two_threads_read_two_tensors(tmp_path: Path) -> None:
    adapted = save_pair(tmp_path, tiny.bert, peft.LoraConfig(target_modules=["query", "dense"], **PLAIN))
    model = dense(tmp_path)
    names = [name for name in sorted(model.changed) if name.endswith(".weight")] * 10
    with ThreadPoolExecutor(4) as pool:
        for name, tensor in zip(names, pool.map(model.read, names), strict=True):
            expected = effective_weight(adapted, name.removesuffix(".weight"))
            torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-9)


def test_saved_embedding_leaves_its_head_alone(tmp_path: Path) -> None:
    """`modules_to_save` copies the module, so the tied head keeps the base's weight."""
    config = peft.LoraConfig(target_modules=["c_attn"], modules_to_save=["wte"], **PLAIN)
    adapted = save_pair(tmp_path, lambda: tiny.gpt2(True), config)
    assert_same_forward(running(tmp_path, lambda: tiny.gpt2(True)), adapted)


@pytest.mark.parametrize("use_dora", [False, True])
def test_r08_fp32_then_cast(tmp_path: Path, use_dora: bool) -> None:
    """bfloat16 base and adapter: every entry within half a unit in the last place of the float64 result."""
    config = peft.LoraConfig(target_modules=["query", "dense"], use_dora=use_dora, **PLAIN)
    adapted = save_pair(tmp_path, tiny.bert, config, dtype=torch.bfloat16)
    model = dense(tmp_path, at_least=None)
    plain = tiny.bert().from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    loaded: Any = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter", autocast_adapter_dtype=False)
    merged = loaded.merge_and_unload()
    ours = peft_error = 0.0
    for name in sorted(model.changed):
        assert model.tensors[name].dtype == torch.bfloat16
        exact = effective_weight(adapted, name.removesuffix(".weight"))
        unit = torch.exp2(torch.floor(torch.log2(exact.abs())) - 7)  # of bfloat16 at this size
        ours = max(ours, float(((model.read(name).double() - exact).abs() / unit).max()))
        peft_error = max(peft_error, float(((merged.get_parameter(name).double() - exact).abs() / unit).max()))
    assert ours <= 0.5 + 1e-3  # 1e-3: float64 goes to bfloat16 by way of float32
    assert peft_error > 0.9  # the negative control: rounded twice


def test_r26_nothing_is_written_and_nothing_is_kept(tmp_path: Path) -> None:
    """Reading in pieces, in any order, after an interruption, gives what one read gives; no file appears."""
    save_pair(tmp_path, tiny.bert, peft.LoraConfig(target_modules=["query", "dense"], use_dora=True, **PLAIN))
    before = sorted(tmp_path.rglob("*"))
    model = dense(tmp_path, at_least=None)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    whole = model.read(name).flatten()
    place, pieces = model.place(name), torch.empty(whole.numel())
    for start in (300, 0, 100, 200, 370):  # across rows of 16, out of order
        end = min(start + 100, whole.numel())
        place.file.load(name, start, pieces[start:end])
    assert torch.equal(pieces, whole)
    broken = densify(FailingBase(open_checkpoint(tmp_path / "base")), open_checkpoint(tmp_path / "adapter"))
    with pytest.raises(OSError, match="pulled out"):
        broken.read(name)
    assert torch.equal(dense(tmp_path, at_least=None).read(name).flatten(), whole)
    assert sorted(tmp_path.rglob("*")) == before


class FailingBase(Checkpoint):
    """A base whose disk fails."""

    def __init__(self, base: Checkpoint) -> None:
        file = _FailingFile({name: base.place(name) for name in base.tensors})
        stored = {name: Stored(file, name, info.shape) for name, info in base.tensors.items()}
        super().__init__(base.name, base.path, "model", stored, base.config)


class _FailingFile:
    path = Path("failing")

    def __init__(self, places: dict[str, Stored]) -> None:
        self.infos = {name: place.file.infos[place.name] for name, place in places.items()}

    def load(self, name: str, start: int, out: Tensor) -> None:
        raise OSError("pulled out")

    def view(self, name: str) -> None:
        return None

    def close(self) -> None:
        pass


def test_a_base_saved_as_a_bare_body(tmp_path: Path) -> None:
    """GPT-2 on the hub has no `transformer.` in its names; adapters have."""
    adapted = save_pair(tmp_path, lambda: tiny.gpt2(True), peft.LoraConfig(target_modules=["c_attn"], **PLAIN))
    (tmp_path / "base").rename(tmp_path / "whole")
    lively(lambda: tiny.gpt2(True)).transformer.save_pretrained(tmp_path / "base")
    with open_checkpoint(tmp_path / "base") as bare:
        assert "h.0.attn.c_attn.weight" in bare.tensors
    assert dense(tmp_path).prefix == "transformer."
    assert_same_forward(running(tmp_path, lambda: tiny.gpt2(True)), adapted)


def test_lora_bias_on_a_layer_without_bias_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, lambda: tiny.t5(False), peft.LoraConfig(target_modules=["q"], lora_bias=True, **PLAIN))
    with pytest.raises(InputsMismatch, match=r"lora_bias adds a bias to decoder.*SelfAttention.q, which has none"):
        dense(tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, tiny.bert, peft.LoraConfig(target_modules=["query"], **PLAIN))
    tiny.llama(True).save_pretrained(tmp_path / "other")
    with pytest.raises(
        InputsMismatch, match=r"adapts bert\.encoder.layer.0.attention.self.query, which the base other"
    ):
        densify(open_checkpoint(tmp_path / "other"), open_checkpoint(tmp_path / "adapter"))
