"""(IA)³ laid onto weights: against PEFT's forward in float64, for every place that a vector can be in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import peft
import pytest
import torch
from adapter_cases import assert_same_forward, changed, dense, lively, logits, running, save_pair
from torch import nn

from mats.checkpoints import densify, open_checkpoint
from mats.errors import InputsMismatch, ShapeMismatch

PLACES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "biased_linear": (tiny.bert, {"target_modules": ["key", "value"], "feedforward_modules": []}),
    "feed_forward": (
        tiny.bert,
        {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]},
    ),
    "t5": (lambda: tiny.t5(False), {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}),
    "conv1d": (
        lambda: tiny.gpt2(True),
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
    ),
    "conv1d_square": (
        lambda: tiny.gpt2(True),
        {"target_modules": ["attn.c_proj", "c_fc"], "feedforward_modules": ["attn.c_proj"]},
    ),
    "saved_head": (
        tiny.bert,
        {"target_modules": ["key"], "feedforward_modules": [], "modules_to_save": ["classifier"]},
    ),
    "conv2d": (tiny.vit, {"target_modules": ["projection", "q_proj"], "feedforward_modules": []}),
}


@pytest.mark.parametrize("place", PLACES)
def test_r10_ia3_bias_and_conv1d(tmp_path: Path, place: str) -> None:
    make, settings = PLACES[place]
    adapted = save_pair(tmp_path, make, peft.IA3Config(**settings))
    assert_same_forward(running(tmp_path, make), adapted)
    assert (logits(lively(make).double().eval()) - logits(adapted)).abs().max() > 1e-3


def test_r10_the_bias_is_scaled_with_the_output_and_not_with_the_input(tmp_path: Path) -> None:
    make, settings = PLACES["feed_forward"]
    save_pair(tmp_path, make, peft.IA3Config(**settings))
    names = set(changed(dense(tmp_path)))
    assert "bert.encoder.layer.0.attention.self.key.bias" in names
    assert "bert.encoder.layer.0.output.dense.weight" in names
    assert "bert.encoder.layer.0.output.dense.bias" not in names


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("feedforward", [False, True])
def test_r10_grouped_convolution(tmp_path: Path, groups: int, feedforward: bool) -> None:
    """A convolution's input channels belong to its groups: compared with the convolution itself."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(3)
    layer = nn.Conv2d(4, 6, 3, groups=groups).double()
    vector = torch.randn(1, 4 if feedforward else 6, 1, 1, generator=generator).double()
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
    stem = {f"stem.{name}": tensor.detach() for name, tensor in layer.named_parameters()}
    save_file(stem, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    save_file({"base_model.model.stem.ia3_l": vector}, tmp_path / "adapter" / "adapter_model.safetensors")
    listed = '["stem"]' if feedforward else "[]"
    config = f'{{"peft_type": "IA3", "target_modules": ["stem"], "feedforward_modules": {listed}}}'
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    image = torch.randn(2, 4, 5, 5, generator=generator).double()
    with torch.no_grad():
        expected = layer(image * vector) if feedforward else layer(image) * vector
        for name, tensor in changed(dense(tmp_path)).items():
            layer.get_parameter(name.removeprefix("stem.")).copy_(tensor)
        torch.testing.assert_close(layer(image), expected, rtol=1e-12, atol=1e-12)


def test_ones_change_nothing(tmp_path: Path) -> None:
    make, settings = PLACES["t5"]
    tiny.t5(False).save_pretrained(tmp_path / "base")
    peft.get_peft_model(make(), peft.IA3Config(**settings)).save_pretrained(tmp_path / "adapter")
    with open_checkpoint(tmp_path / "base") as base:
        for name, tensor in changed(dense(tmp_path, at_least=None)).items():
            assert torch.equal(tensor, base.read(name))


def test_a_vector_of_another_size_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, tiny.bert, peft.IA3Config(target_modules=["key"], feedforward_modules=[]))
    from transformers import BertConfig, BertForSequenceClassification

    wider = BertConfig(vocab_size=40, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    BertForSequenceClassification(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises((InputsMismatch, ShapeMismatch), match="vector 16 entries; 20 or 20 would be right"):
        densify(open_checkpoint(tmp_path / "wider"), open_checkpoint(tmp_path / "adapter"))
