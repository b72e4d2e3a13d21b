"""What is planned on paper is what a real model of that configuration takes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mats.curvature import CollectionSettings, plan_collection
from mats.curvature.activations import model_bytes
from mats.data.batch import Batch
from mats.engine.collection_forecast import ACCELERATORS, UTILISATION, Workload, forecast, gram_items
from mats.errors import OutOfSpace, RequestError

SMALL = Workload(tokens=6, targets=4, examples=10, batch_size=3, dtype="float32")


def llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=23,
        architectures=["LlamaForCausalLM"],
    )


def vit() -> Any:
    from transformers import ViTConfig

    return ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_channels=1,
        architectures=["ViTForImageClassification"],
    )


def t5() -> Any:
    from transformers import T5Config

    return T5Config(
        d_model=12,
        d_kv=4,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        vocab_size=23,
        architectures=["T5ForConditionalGeneration"],
    )


def real_batch(config: Any) -> Batch:
    ids = torch.arange(18).reshape(3, 6) % 20 + 1
    everywhere = torch.ones(3, 6, dtype=torch.bool)
    names = ("a", "b", "c")
    if config.model_type == "vit":
        return Batch(
            {"pixel_values": torch.randn(3, 1, 8, 8)}, names, "image_classification", None, None, torch.arange(3) % 2
        )
    if config.model_type == "t5":
        targets = torch.arange(12).reshape(3, 4) + 1
        inputs = {"input_ids": ids, "attention_mask": everywhere.long(), "decoder_input_ids": targets}
        return Batch(inputs, names, "text_to_text", everywhere, torch.ones(3, 4, dtype=torch.bool), targets)
    return Batch(
        {"input_ids": ids, "attention_mask": everywhere.long()}, names, "language_modeling", everywhere, None, ids
    )


@pytest.mark.parametrize("make", [llama, vit, t5])
def test_sums_and_bytes_on_paper_are_those_of_the_model(make: Any) -> None:
    import transformers

    config = make()
    torch.manual_seed(0)
    model = getattr(transformers, config.architectures[0])(config).eval()
    plan = plan_collection(model, real_batch(config), CollectionSettings())
    found = forecast(make(), SMALL)
    assert {item.key: item.bytes for item in gram_items(found.model, CollectionSettings())} == {
        item.key: item.bytes for item in plan.items
    }
    assert found.model.bytes == model_bytes(model)
    assert found.model.parameters == sum(parameter.numel() for parameter in model.parameters())
    measured = {layer.name for layer in plan.layers}
    assert [layer.name for layer in found.model.layers] == [name for name in plan.sides if name in measured]


def test_operations_are_those_counted_by_hand() -> None:
    """Llama, 18 rows: linear layers 2 · rows · weights, attention 4 · rows · tokens · width; backward as much again,
    attention twice; Grams 2 · rows · size²."""
    found = forecast(llama(), SMALL)
    rows, width, tokens = 18, 16, 6
    per_layer = 2 * width * width + 2 * width * 8 + 3 * width * 24  # q, o; k, v; gate, up, down
    linear, attention = 2 * rows * (2 * per_layer + width * 23), 2 * 4 * rows * tokens * width
    assert found.model.forward == linear + attention
    # The gradient stops at the output of the first layers that read the embedding: they have no product of their own.
    assert found.model.backward == linear + 2 * attention
    grams = 2 * rows * (2 * (3 * 16**2 + 24**2) + 16**2)  # inputs: q, o, gate, down of two layers, and the head
    grams += 2 * rows * (2 * (2 * 16**2 + 2 * 8**2 + 2 * 24**2 + 16**2) + 23**2 + 16**2)  # outputs, embedding too
    batches = math.ceil(10 / 3)
    assert found.operations == batches * (grams + linear + attention + found.model.backward)
    gpu = ACCELERATORS["h100"]
    seconds = found.operations / (UTILISATION * gpu.single) + 2 * sum(found.pass_bytes) * batches / gpu.bandwidth
    assert found.hours == pytest.approx(seconds / 3600)


def test_passes_cut_short_cost_less_than_whole_ones() -> None:
    whole = forecast(llama(), SMALL)
    settings = CollectionSettings(
        memory_budget=max(item.bytes for item in gram_items(whole.model, CollectionSettings()))
    )
    split = forecast(llama(), replace(SMALL, settings=settings))
    assert len(split.passes) > 3
    assert sum(split.pass_bytes) == sum(whole.pass_bytes)
    batches = math.ceil(10 / 3)
    every_pass_whole = len(split.passes) * (whole.model.forward + whole.model.backward) * batches
    assert whole.operations < split.operations < every_pass_whole


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"accelerator": "tpu"}, RequestError, "GPU 'tpu' is unknown; one of a100, h100"),
        ({"gpus": 1, "batch_size": 10**9}, OutOfSpace, "more GPUs or a smaller batch"),
    ],
)
def test_what_cannot_be_planned_is_told(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        forecast(llama(), replace(SMALL, **change))


def test_a_configuration_must_name_its_class(tmp_path: Any) -> None:
    config = llama()
    config.architectures = ["NoSuchModel"]
    with pytest.raises(RequestError, match="'NoSuchModel' is no class of transformers"):
        forecast(config, SMALL)
    with pytest.raises(RequestError, match="no configuration of a model"):
        forecast(tmp_path, SMALL)
