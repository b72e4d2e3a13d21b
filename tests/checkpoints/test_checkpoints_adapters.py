"""(IA)³ vectors of MaTS, TIES and PEFT: one set of names, PEFT folders out, the function of multiplying by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoint_models as tiny
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mats.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    copy_companions,
    load_model,
    match_tensors,
    merge_base,
    open_checkpoint,
    output_tensors,
    parameter_names,
)
from mats.errors import CheckpointCorrupt, InputsMismatch, RequestError, ShapeMismatch

SPELLINGS = ("ia3_layer.ia3_vector", "ia3_vector")


def scaled_modules(model: nn.Module) -> list[str]:
    """The modules that MaTS scales: k, v of every attention, wi_1 of every gated feed-forward."""
    return [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in ("k", "v", "wi_1")]


def random_vectors(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 1 + 0.5 * torch.randn(model.get_submodule(name).out_features, generator=generator)
        for name in scaled_modules(model)
    }


def save_legacy(vectors: dict[str, Tensor], path: Path, spelling: str) -> None:
    torch.save({f"transformer.{name}.{spelling}": vector for name, vector in vectors.items()}, path)


@contextmanager
def multiplied(model: nn.Module, vectors: dict[str, Tensor]) -> Iterator[None]:
    """The definition: each output of a scaled module is multiplied by its vector."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, vector=vector: output * vector)
        for name, vector in vectors.items()
    ]
    yield
    for handle in handles:
        handle.remove()


def by_hand(model: nn.Module, vectors: dict[str, Tensor]) -> Tensor:
    with multiplied(model, vectors):
        return tiny.logits(model)


@pytest.fixture
def base(tmp_path: Path) -> nn.Module:
    model = tiny.t5(tied=False)
    model.save_pretrained(tmp_path / "base")
    return model


def write_mean(output: Path, models: list[Checkpoint], base: Checkpoint | None) -> None:
    tensors = output_tensors(base or models[0], models, dtype=None)
    with CheckpointWriter(output, tensors, identity="x", weights_name="adapter_model") as writer:
        for info in tensors:
            writer.write(info.name, sum(model.read(info.name) for model in models) / len(models))
        copy_companions(models[0], writer.folder, base=base)
        writer.publish()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_merged_legacy_vectors_become_a_peft_adapter_with_the_same_logits(
    tmp_path: Path, base: nn.Module, spelling: str
) -> None:
    vectors = [random_vectors(base, seed) for seed in range(2)]
    for i, part in enumerate(vectors):
        save_legacy(part, tmp_path / f"ia3_{i}.pt", spelling)
    models = [open_checkpoint(tmp_path / f"ia3_{i}.pt") for i in range(2)]
    assert {model.kind for model in models} == {"ia3"}
    assert models[0].tensors["base_model.model.decoder.block.1.layer.2.DenseReluDense.wi_1.ia3_l"].shape == (24, 1)
    write_mean(tmp_path / "out", models, open_checkpoint(tmp_path / "base"))

    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "IA3"
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    assert config["feedforward_modules"] == []
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]

    mean = {name: (vectors[0][name] + vectors[1][name]) / 2 for name in vectors[0]}
    expected = by_hand(base, mean)
    assert (expected - tiny.logits(base)).abs().max() > 1e-2
    fresh = tiny.t5(tied=False)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "out").eval()
    assert isinstance(loaded, peft.PeftModelForSeq2SeqLM)
    torch.testing.assert_close(tiny.logits(loaded), expected)
    for given in (tmp_path / "base", None):  # named, or found through the adapter's config
        ours = load_model(tmp_path / "out", "text_to_text", base=given)
        torch.testing.assert_close(tiny.logits(ours), expected)
        assert not ours.training


def test_a_legacy_file_loads_onto_its_base(tmp_path: Path, base: nn.Module) -> None:
    vectors = random_vectors(base, 3)
    save_legacy(vectors, tmp_path / "best.pt", SPELLINGS[0])
    model = load_model(tmp_path / "best.pt", "text_to_text", base=tmp_path / "base")
    torch.testing.assert_close(tiny.logits(model), by_hand(base, vectors))
    checkpoint = open_checkpoint(tmp_path / "best.pt")
    names = parameter_names(model, checkpoint)
    assert set(names.values()) == set(checkpoint.tensors)
    assert all(name == f"{target}.default" for name, target in names.items())
    below = parameter_names(model, open_checkpoint(tmp_path / "base"))
    key = "base_model.model.encoder.block.0.layer.0.SelfAttention.k.base_layer.weight"
    assert below[key] == "encoder.block.0.layer.0.SelfAttention.k.weight"
    with pytest.raises(RequestError, match="weights without an architecture; name the model under them as base"):
        load_model(tmp_path / "best.pt", "text_to_text")


def test_some_of_the_modules_only_are_named_in_full(tmp_path: Path, base: nn.Module) -> None:
    vectors = {name: value for name, value in random_vectors(base, 4).items() if name.startswith("decoder")}
    save_legacy(vectors, tmp_path / "decoder.pt", SPELLINGS[1])
    adapter = open_checkpoint(tmp_path / "decoder.pt")
    write_mean(tmp_path / "out", [adapter], open_checkpoint(tmp_path / "base"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == set(vectors)
    loaded = peft.PeftModel.from_pretrained(tiny.t5(tied=False), tmp_path / "out").eval()
    torch.testing.assert_close(tiny.logits(loaded), by_hand(base, vectors))


def test_all_of_the_modules_are_named_by_their_endings(tmp_path: Path, base: nn.Module) -> None:
    save_legacy(random_vectors(base, 4), tmp_path / "all.pt", SPELLINGS[1])
    write_mean(tmp_path / "out", [open_checkpoint(tmp_path / "all.pt")], open_checkpoint(tmp_path / "base"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k", "v", "wi_1"]


def test_peft_folders_keep_their_config_feed_forward_modules_included(tmp_path: Path, base: nn.Module) -> None:
    config = peft.IA3Config(
        task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"], inference_mode=False
    )
    for seed in range(2):
        torch.manual_seed(seed)
        model = peft.get_peft_model(tiny.t5(tied=False), config)
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.data = 1 + 0.3 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / f"adapter{seed}")
    models = [open_checkpoint(tmp_path / f"adapter{seed}") for seed in range(2)]
    write_mean(tmp_path / "out", models, open_checkpoint(tmp_path / "base"))
    before = json.loads((tmp_path / "adapter0" / "adapter_config.json").read_text())
    after = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= {"base_model_name_or_path", "inference_mode"}
    parts = [load_file(tmp_path / f"adapter{seed}" / "adapter_model.safetensors") for seed in range(2)]
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert merged.keys() == parts[0].keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)
    peft.PeftModel.from_pretrained(tiny.t5(tied=False), tmp_path / "out")


def test_task_vectors_of_adapters_start_at_ones(tmp_path: Path, base: nn.Module) -> None:
    for seed in range(2):
        vectors = random_vectors(base, seed)
        if seed:
            vectors.pop("encoder.block.0.layer.0.SelfAttention.k")
        save_legacy(vectors, tmp_path / f"{seed}.pt", SPELLINGS[seed])
    models = [open_checkpoint(tmp_path / f"{seed}.pt") for seed in range(2)]
    full = open_checkpoint(tmp_path / "base")
    neutral = merge_base(full, models)
    assert neutral.kind == "ia3"
    assert set(neutral.tensors) == set(models[0].tensors)
    assert all(torch.equal(neutral.read(name), torch.ones(info.shape)) for name, info in neutral.tensors.items())
    match = match_tensors(full, models)
    assert match.missing["1"] == ("base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l",)
    assert set(match.common) == set(models[1].tensors)


def test_adapters_that_do_not_fit(tmp_path: Path, base: nn.Module) -> None:
    full = open_checkpoint(tmp_path / "base")
    save_legacy({"encoder.nowhere.k": torch.ones(16)}, tmp_path / "lost.pt", SPELLINGS[0])
    with pytest.raises(InputsMismatch, match=r"lost: .*nowhere.* scales a module that the base base does not have"):
        merge_base(full, [open_checkpoint(tmp_path / "lost.pt")])
    with pytest.raises(InputsMismatch, match="adapter lost does not fit its base"):
        load_model(tmp_path / "lost.pt", "text_to_text", base=tmp_path / "base")
    save_legacy({"encoder.block.0.layer.0.SelfAttention.k": torch.ones(17)}, tmp_path / "wide.pt", SPELLINGS[0])
    with pytest.raises(ShapeMismatch, match=r"wide: .* has 17 elements; .* weight shape \[16, 16\]"):
        merge_base(full, [open_checkpoint(tmp_path / "wide.pt")])
    with pytest.raises(InputsMismatch, match="cannot be merged together: base is model, wide is ia3"):
        merge_base(full, [full, open_checkpoint(tmp_path / "wide.pt")])
    mixed = {"transformer.encoder.k.ia3_vector": torch.ones(3), "transformer.lm_head.weight": torch.ones(2, 2)}
    torch.save(mixed, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointCorrupt, match=r"\(IA\)³ vectors together with other tensors"):
        open_checkpoint(tmp_path / "mixed.pt")


def test_whole_modules_saved_with_an_adapter_come_from_the_base(tmp_path: Path) -> None:
    """A classification adapter brings its own head, here of another number of classes than the base's config says."""
    bert = tiny.bert(num_labels=5)
    config = peft.IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[])
    model = peft.get_peft_model(bert, config).eval()
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    body = tiny.bert().bert
    body.save_pretrained(tmp_path / "body")
    with open_checkpoint(tmp_path / "adapter") as adapter:
        assert adapter.kind == "ia3"
        assert "base_model.model.classifier.weight" in adapter.tensors
        neutral = merge_base(open_checkpoint(tmp_path / "body"), [adapter])
        assert "base_model.model.classifier.weight" not in neutral.tensors  # the body has none
    loaded = load_model(tmp_path / "adapter", "text_classification", base=tmp_path / "body")
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))


def test_lora_is_read(tmp_path: Path, base: nn.Module) -> None:
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], r=2)
    model = peft.get_peft_model(tiny.t5(tied=False), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "lora")
    with open_checkpoint(tmp_path / "lora") as adapter:
        assert adapter.kind == "lora"
        assert adapter.config["r"] == 2
    loaded = load_model(tmp_path / "lora", "text_to_text", base=tmp_path / "base")
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))
