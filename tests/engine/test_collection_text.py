"""Step one on text: a tiny T5 that ranks answers, as a whole model and as an (IA)³ adapter on its base."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from collection_cases import KillAfter, Killed, content_of
from safetensors.torch import load_file, save_file

from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings
from mats.data import DatasetSpec
from mats.engine.collection import CollectionRequest, save_metadata
from mats.store import add_stores, open_store, verify_store

WORDS = ["is", "it", "good", "bad", "fine", "awful", "warm", "cold", "day", "night", "the", "a", "yes", "no"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A random T5 with a word tokenizer, an (IA)³ adapter on it, and questions of different lengths."""
    from peft import IA3Config, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=16,
        d_kv=4,
        num_heads=4,
        d_ff=24,
        num_layers=2,
        tie_word_embeddings=False,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapter = get_peft_model(
        model,
        IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wi_1"], feedforward_modules=[]),
    )
    for name, parameter in adapter.named_parameters():
        if "ia3" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    adapter.save_pretrained(folder / "adapter")
    rows = [{"question": " ".join(WORDS[(n + k) % 12] for k in range(2 + n % 4)), "label": n % 2} for n in range(9)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_request(home, tmp_path, **changes):
    spec = DatasetSpec.model_validate(
        {
            "name": "questions",
            "task": "text_to_text",
            "root": home,
            "source": {"format": "json_lines", "files": {"validation": "validation.jsonl"}},
            "template": {"input": "{question}", "choices": ["no", "yes it is"]},
        }
    )
    request = CollectionRequest(
        model=str(home / "base"), name="t5", dataset=spec, batch_size=2, root=tmp_path / "metadata", device="cpu"
    )
    return replace(request, **changes)


def test_every_tensor_of_a_t5_is_measured_or_named(home, tmp_path):
    store = open_store(save_metadata(text_request(home, tmp_path)), verify=True)
    assert verify_store(store.path) == []
    with open_checkpoint(home / "base") as checkpoint:
        named = {layer.weight for layer in store.manifest.layers} | set(store.manifest.uncovered)
        tied = {name for group in checkpoint.tied for name in group}
        assert set(checkpoint.tensors) - tied <= named
    encoder = store.tokens("site", "encoder.block.0.layer.0.SelfAttention.q")
    lengths = [2 + n % 4 for n in range(9)]  # this tokenizer appends no end token
    assert encoder == sum(lengths)
    assert store.tokens("layer", "lm_head") == sum([1, 3][n % 2] for n in range(9))


@pytest.mark.parametrize("labels", ["empirical", "sampled", "exact"])
def test_folds_of_text_add_up(home, tmp_path, labels):
    request = text_request(home, tmp_path, settings=CollectionSettings(labels=labels))
    whole = open_store(save_metadata(request))
    parts = [save_metadata(replace(request, fold=(k, 3), batch_size=1 + k)) for k in range(3)]
    added = open_store(add_stores(parts, tmp_path / "added"))
    assert added.manifest.data == whole.manifest.data
    for key in whole:
        expected = whole.sum(key).double()
        assert float((added.sum(key) - expected).norm()) <= 1e-5 * float(expected.norm()), key


def test_an_adapter_is_measured_on_its_base(home, tmp_path):
    settings = CollectionSettings(statistics=("diagonal", "block"))
    request = text_request(home, tmp_path, model=str(home / "adapter"), base=str(home / "base"), settings=settings)
    store = open_store(save_metadata(request), verify=True)
    with open_checkpoint(home / "adapter") as adapter, open_checkpoint(home / "base") as base:
        assert set(store.manifest.parameters) == set(adapter.tensors)
        store.check_model(adapter.fingerprint(), "t5")
        assert store.manifest.model.base_fingerprint == base.fingerprint()
    for name in store.manifest.parameters:
        block, diagonal = store.sum(f"block/{name}"), store.sum(f"diagonal/{name}")
        assert torch.allclose(block.diagonal(), diagonal.flatten(), rtol=1e-4)
        assert float(diagonal.sum()) > 0


def test_an_adapter_half_way_has_half_of_its_scaling(home, tmp_path):
    (half := tmp_path / "half").mkdir()
    for file in (home / "adapter").iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    vectors = load_file(half / "adapter_model.safetensors")
    save_file({name: 1 + (vector - 1) / 2 for name, vector in vectors.items()}, half / "adapter_model.safetensors")
    settings = CollectionSettings(statistics=("block",))
    request = text_request(home, tmp_path, model=str(home / "adapter"), base=str(home / "base"), settings=settings)
    line, expected, own = (
        open_store(save_metadata(each))
        for each in (replace(request, position=0.5), replace(request, model=str(half), root=tmp_path / "hand"), request)
    )
    assert all(torch.allclose(line.sum(key), expected.sum(key), rtol=1e-4) for key in expected)
    assert not all(torch.allclose(own.sum(key), expected.sum(key), rtol=1e-4) for key in expected)


def test_a_tied_embedding_half_way_is_moved_once(home, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    for seed, name in enumerate(["start", "end"]):
        torch.manual_seed(seed)
        config = T5Config.from_pretrained(home / "base", tie_word_embeddings=True)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / name)
        for file in home.joinpath("base").glob("tokenizer*"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    tensors = [load_file(tmp_path / name / "model.safetensors") for name in ("start", "end")]
    assert "lm_head.weight" not in tensors[0]
    shutil.copytree(tmp_path / "end", tmp_path / "half")
    halves = {name: (tensors[0][name] + tensors[1][name]) / 2 for name in tensors[0]}
    save_file(halves, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    request = text_request(home, tmp_path, model=str(tmp_path / "end"), base=str(tmp_path / "start"))
    line, expected, own = (
        open_store(save_metadata(each))
        for each in (
            replace(request, position=0.5),
            replace(request, model=str(tmp_path / "half"), root=tmp_path / "hand"),
            request,
        )
    )
    assert all(torch.allclose(line.sum(key), expected.sum(key), rtol=1e-3, atol=1e-6) for key in expected)
    assert not all(torch.allclose(own.sum(key), expected.sum(key), rtol=1e-3, atol=1e-6) for key in expected)


def test_an_adapter_names_its_own_base(home, tmp_path):
    settings = CollectionSettings(statistics=("block",))
    asked = text_request(home, tmp_path, model=str(home / "adapter"), base=str(home / "base"), settings=settings)
    config = json.loads((home / "adapter" / "adapter_config.json").read_text())
    (home / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(home / "base")})
    )
    unasked = replace(asked, base=None)
    one, other = open_store(save_metadata(asked)), open_store(save_metadata(unasked))
    assert one.manifest.model.base_fingerprint == other.manifest.model.base_fingerprint is not None
    assert all(torch.equal(one.sum(key), other.sum(key)) for key in one)


@pytest.mark.parametrize("labels", ["sampled", "exact"])
def test_text_goes_on_to_the_same_bytes(home, tmp_path, labels):
    settings = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal"), labels=labels)
    request = text_request(home, tmp_path, settings=settings, checkpoint_batches=2)
    with pytest.raises(Killed):
        save_metadata(request, KillAfter(3))
    folder = save_metadata(request)
    assert content_of(folder) == content_of(save_metadata(replace(request, root=tmp_path / "whole")))
