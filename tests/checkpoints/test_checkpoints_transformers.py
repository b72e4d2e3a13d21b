"""What is written, `from_pretrained` loads: the same logits as the in-memory merge, tied or not, sharded or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import checkpoint_models as tiny
import pytest
import torch
from torch import nn

from mats.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    copy_companions,
    load_model,
    match_tensors,
    open_checkpoint,
    output_tensors,
)
from mats.errors import InputsMismatch, RequestError

MODELS: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "t5 tied": (partial(tiny.t5, True), "text_to_text"),
    "t5 untied": (partial(tiny.t5, False), "text_to_text"),
    "bert": (tiny.bert, "text_classification"),
    "vit": (tiny.vit, "image_classification"),
    "gpt2 tied": (partial(tiny.gpt2, True), "language_modeling"),
    "gpt2 untied": (partial(tiny.gpt2, False), "language_modeling"),
    "llama tied": (partial(tiny.llama, True), "language_modeling"),
    "llama untied": (partial(tiny.llama, False), "language_modeling"),
}


def write_average(
    output: Path, base: Checkpoint, models: list[Checkpoint], dtype: torch.dtype | None = None, limit: int = 10**9
) -> None:
    """The simplest merge that there is, by the public functions of this room."""
    aliases = match_tensors(base, models).aliases
    tensors = output_tensors(base, models, dtype=dtype)
    with CheckpointWriter(output, tensors, identity="average", max_shard_bytes=limit) as writer:
        for info in tensors:
            read = [m.read(aliases[k].get(info.name, info.name)) for k, m in zip(aliases, models, strict=True)]
            mean = sum(value.float() for value in read) / len(read)
            writer.write(info.name, mean if info.dtype.is_floating_point else base.read(info.name))
        copy_companions(base, writer.folder)
        writer.publish()


def average_in_memory(models: list[nn.Module], build: Callable[..., nn.Module]) -> nn.Module:
    result = build(seed=0)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            parameter.copy_(sum(model.get_parameter(name) for model in models) / len(models))
    return result


@pytest.mark.parametrize("limit", [10**9, 6000], ids=["single", "sharded"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_merged_folder_gives_the_logits_of_the_in_memory_merge(tmp_path: Path, kind: str, limit: int) -> None:
    build, task = MODELS[kind]
    models = [build(seed=seed) for seed in range(3)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / f"model{i}", max_shard_size="8KB" if i == 1 else "5GB")
    opened = [open_checkpoint(tmp_path / f"model{i}") for i in range(3)]
    write_average(tmp_path / "out", opened[0], opened, limit=limit)
    expected = tiny.logits(average_in_memory(models, build))
    loaded = type(models[0]).from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(tiny.logits(loaded), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tiny.logits(load_model(tmp_path / "out", task)), expected, rtol=1e-5, atol=1e-6)
    assert (tiny.logits(models[0]) - expected).abs().max() > 1e-3  # the merge is not one of its inputs
    count = sum(info.numel for info in open_checkpoint(tmp_path / "out").tensors.values())
    assert count == sum(p.numel() for p in models[0].parameters())  # no head is written twice


@pytest.mark.parametrize(
    ("build", "flag"), [(partial(tiny.t5, False), True), (partial(tiny.gpt2, False), False)], ids=["t5", "gpt2"]
)
def test_the_config_follows_the_content_where_the_flag_means_tying(
    tmp_path: Path, build: Callable[..., nn.Module], flag: bool
) -> None:
    """transformers 5 forces the flag for T5, and reads the content; there the flag also means scaling, so it stays."""
    model = build()
    model.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    base = open_checkpoint(tmp_path / "base")
    assert "lm_head.weight" in base.tensors
    assert not base.tied
    write_average(tmp_path / "out", base, [base])
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["tie_word_embeddings"] is flag
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))
    tied = build()
    tied.lm_head.weight = tied.get_input_embeddings().weight
    assert (tiny.logits(tied) - tiny.logits(model)).abs().max() > 1e-3  # tying would have been seen


def test_tied_weights_stored_twice_stay_one_parameter(tmp_path: Path) -> None:
    """A `.bin` of a tied T5 holds the embedding under four names; one model stores it so, the other once."""
    models = [tiny.t5(True, seed) for seed in range(2)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / f"model{i}")
    (tmp_path / "model0" / "model.safetensors").unlink()
    torch.save(models[0].state_dict(), tmp_path / "model0" / "pytorch_model.bin")
    base, other = (open_checkpoint(tmp_path / f"model{i}") for i in range(2))
    names = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight", "shared.weight")
    assert base.tied == (names,)
    match = match_tensors(base, [other])
    assert match.aliases["model1"] == dict.fromkeys(names[:3], "shared.weight")
    assert match.missing["model1"] == match.extra["model1"] == ()
    assert match_tensors(other, [base]).extra["model0"] == ()
    expected = tiny.logits(average_in_memory(models, partial(tiny.t5, True)))
    for name, first in (("many", base), ("one", other)):
        write_average(tmp_path / name, first, [base, other])
        loaded = type(models[0]).from_pretrained(tmp_path / name).eval()
        torch.testing.assert_close(tiny.logits(loaded), expected, rtol=1e-5, atol=1e-6)
        assert loaded.lm_head.weight is loaded.shared.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_asked_for_is_in_the_file_and_in_the_config(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny.bert()
    model.save_pretrained(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    write_average(tmp_path / "out", base, [base, base], dtype=dtype)
    assert {info.dtype for info in open_checkpoint(tmp_path / "out").tensors.values()} == {dtype}
    loaded = load_model(tmp_path / "out", "text_classification")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded.config.dtype == dtype
    assert load_model(tmp_path / "out", "text_classification", dtype=torch.float32).dtype == torch.float32


def test_half_precision_inputs_keep_their_dtype_and_integers_stay(tmp_path: Path) -> None:
    model = tiny.bert().half()
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "ids": torch.arange(4)}, tmp_path / "base" / "pytorch_model.bin")
    base = open_checkpoint(tmp_path / "base")
    dtypes = {info.name: info.dtype for info in output_tensors(base, [base], dtype=None)}
    assert dtypes.pop("ids") == torch.int64
    assert set(dtypes.values()) == {torch.float16}
    asked = {info.name: info.dtype for info in output_tensors(base, [base], dtype=torch.float32)}
    assert asked.pop("ids") == torch.int64
    assert set(asked.values()) == {torch.float32}


def test_companions_are_copied_and_nothing_else(tmp_path: Path) -> None:
    model = tiny.bert()
    model.save_pretrained(tmp_path / "base")
    wanted = {
        "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model",
        "preprocessor_config.json", "chat_template.jinja", "LICENSE", "generation_config.json",
    }  # fmt: skip
    left = {"trainer_state.json", "training_args.bin", "optimizer.pt", "README.md", "model.onnx", "modeling_x.py"}
    for name in (wanted | left) - {"config.json"}:
        (tmp_path / "base" / name).write_text(name)
    base = open_checkpoint(tmp_path / "base")
    (tmp_path / "out").mkdir()
    assert set(copy_companions(base, tmp_path / "out")) == wanted
    assert {file.name for file in (tmp_path / "out").iterdir()} == wanted
    assert (tmp_path / "out" / "vocab.txt").read_text() == "vocab.txt"


def test_a_head_that_would_be_random_is_refused(tmp_path: Path) -> None:
    tiny.llama(True).save_pretrained(tmp_path / "llama")
    with pytest.raises(InputsMismatch, match=r"has no score\.weight.*text_classification.*random"):
        load_model(tmp_path / "llama", "text_classification")
    with pytest.raises(InputsMismatch, match="no model of this type for image_classification"):
        load_model(tmp_path / "llama", "image_classification")
    with pytest.raises(RequestError, match="task 'translation': expected one of"):
        load_model(tmp_path / "llama", "translation")


def test_loading_is_quiet_and_leaves_the_settings_of_transformers_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    tiny.bert().save_pretrained(tmp_path / "bert")
    logging.set_verbosity_info()
    capfd.readouterr()
    try:
        model = load_model(tmp_path / "bert", "text_classification")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        assert not model.training
        assert capfd.readouterr() == ("", "")
        with pytest.raises(InputsMismatch, match="no model of this type"):
            load_model(tmp_path / "bert", "text_to_text")
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
