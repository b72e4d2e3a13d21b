"""Outputs of merge files that load: repeated layers, encoders with decoders, tokenizers, own methods, same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit_cases import CASES, with_paths
from mergekit_models import family, tensors_of, transformers_family

from mats.checkpoints import open_checkpoint
from mats.engine.merging import merge
from mats.recipes.mergekit import Options, merge_file_request
from mats.yaml_reader import read_yaml


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mats.engine.merging.write_report", lambda *_, **__: [])


def carried_out(file: dict[str, Any], paths: dict[str, Path], root: Path, **options: Any) -> Path:
    """The output folder of a merge file."""
    path = root / "merge.yaml"
    path.write_text(yaml.safe_dump(with_paths(file, paths)))
    return merge(merge_file_request(read_yaml(path), Options(root / "out", device="cpu", **options))).path


def test_r21_repeated_layers_are_saved_and_load(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    paths = transformers_family(tmp_path / "llama", "llama")
    twice = {"sources": [{"model": "m1", "layer_range": [1, 3]}]}
    file = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "m1", "layer_range": [0, 3]}]}, twice, twice],
    }
    out = carried_out(file, paths, tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert model.config.num_hidden_layers == 7
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    source = tensors_of(paths["m1"])
    state = model.state_dict()
    for layer, own in enumerate((0, 1, 2, 1, 2, 1, 2)):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(state[name.format(layer)], source[name.format(own)])
    with open_checkpoint(out) as checkpoint:
        assert len(checkpoint.tensors) == len(source) + 3 * (len(source) - 3) // 4


def test_r21_repeated_layers_of_different_settings_are_not_taken_for_one(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    source = {"sources": [{"model": "m1", "layer_range": [1, 2]}]}
    slices = [source, {**source, "parameters": {"scale": 3.0}}]
    received = tensors_of(carried_out({"merge_method": "passthrough", "slices": slices}, paths, tmp_path))
    name = "model.layers.{}.mlp.up_proj.weight"
    torch.testing.assert_close(received[name.format(1)], 3 * received[name.format(0)])


def test_encoder_and_decoder_are_modules_and_shared_tensors_stay(tmp_path: Path) -> None:
    from transformers import T5ForConditionalGeneration

    paths = transformers_family(tmp_path / "t5", "t5")
    file = {
        "merge_method": "linear",
        "parameters": {"weight": 1.0},
        "modules": {
            "encoder": {
                "slices": [
                    {"sources": [{"model": "m1", "layer_range": [0, 2]}, {"model": "m2", "layer_range": [1, 3]}]}
                ]
            },
            "decoder": {"models": [{"model": "m1"}, {"model": "m2"}]},
        },
    }
    model, info = T5ForConditionalGeneration.from_pretrained(
        carried_out(file, paths, tmp_path), output_loading_info=True
    )
    assert (model.config.num_layers, model.config.num_decoder_layers) == (2, 3)
    assert not info["missing_keys"]
    one, two, state = tensors_of(paths["m1"]), tensors_of(paths["m2"]), model.state_dict()
    name = "encoder.block.{}.layer.0.SelfAttention.q.weight"
    torch.testing.assert_close(state[name.format(1)], (one[name.format(1)] + two[name.format(2)]) / 2)
    torch.testing.assert_close(state["shared.weight"], (one["shared.weight"] + two["shared.weight"]) / 2)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"  # m2's layer 1 has none
    torch.testing.assert_close(state[bias], one[bias])


def test_tied_heads_of_gpt2_stay_tied(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    paths = transformers_family(tmp_path / "gpt2", "gpt2")
    out = carried_out(CASES["task_arithmetic"], paths, tmp_path)
    assert sorted(tensors_of(out)) == sorted(tensors_of(paths["base"]))
    model = GPT2LMHeadModel.from_pretrained(out)
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_own_methods_take_their_settings_as_parameters(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    file = {
        "merge_method": "average",
        "models": [{"model": "m1", "parameters": {"weight": 3.0}}, {"model": "m2", "name": "second"}],
    }
    received = tensors_of(carried_out(file, paths, tmp_path))
    one, two = tensors_of(paths["m1"]), tensors_of(paths["m2"])
    for name, tensor in received.items():
        torch.testing.assert_close(tensor, 0.75 * one[name] + 0.25 * two[name])


def test_own_methods_say_what_is_wrong(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    file: dict[str, Any] = {"merge_method": "mats", "base_model": "base", "models": [{"model": "m1"}]}
    with pytest.raises(ValueError, match="metadata: missing; the folder of the model's store"):
        carried_out(file, paths, tmp_path)
    with pytest.raises(ValueError, match="anchr"):
        carried_out({**file, "parameters": {"anchr": 1}}, paths, tmp_path)
    with pytest.raises(ValueError, match="modules: merge_method mats merges whole models"):
        carried_out({"merge_method": "mats", "modules": {"a": {}}}, paths, tmp_path)


def test_an_adapter_is_laid_onto_its_model(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    paths = transformers_family(tmp_path / "llama", "llama")
    model = AutoModelForCausalLM.from_pretrained(paths["base"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "ad+apter")
    whole = adapted.merge_and_unload().state_dict()
    file = {
        "merge_method": "linear",
        "models": [{"model": f"{paths['base']}+{tmp_path / 'ad+apter'}"}, {"model": str(paths["m1"])}],
        "parameters": {"weight": 0.5},
    }
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(file))
    received = tensors_of(merge(merge_file_request(read_yaml(path), Options(tmp_path / "out", device="cpu"))).path)
    other = tensors_of(paths["m1"])
    for name, tensor in received.items():
        torch.testing.assert_close(tensor, (whole[name] + other[name]) / 2, atol=1e-6, rtol=1e-6)


def test_r17_the_same_bytes_under_any_hash_seed_and_the_donor_is_the_first(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    for index, name in enumerate(("m1", "m2", "m3")):
        config = json.loads((paths[name] / "config.json").read_text())
        (paths[name] / "config.json").write_text(json.dumps({**config, "donor": index}))
    file = {
        "merge_method": "linear",
        "models": [{"model": str(paths[name])} for name in ("m2", "m1", "m3")],
        "parameters": {"weight": 1.0},
    }
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(file))
    outputs = []
    program = (
        "import mats.engine.merging as m; m.write_report = lambda *_, **__: []; from mats.cli.main import run; run()"
    )
    for seed in ("0", "1"):
        out = tmp_path / f"out{seed}"
        command = [sys.executable, "-c", program, "merge", str(path), str(out), "--json", "--device", "cpu"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        outputs.append(
            {name: (out / name).read_bytes() for name in ("config.json", "model.safetensors", "recipe.yaml")}
        )
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0]["config.json"])["donor"] == 1


def test_the_command_line_plans_and_merges_with_mergekits_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mats.cli.main import main

    paths = family(tmp_path / "llama", layers=2)
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(with_paths(CASES["dare_ties_all_kept"], paths)))
    assert main(["merge", str(path), str(tmp_path / "out"), "--dry-run", "--json", "--device", "cpu"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["method"] == "sparse_task_arithmetic"
    assert any("random masks come from this program's generator" in note for note in plan["notes"])
    options = ["--out-shard-size", "2k", "--random-seed", "3", "--device", "cpu", "--json", "parameters.lambda=0"]
    assert main(["merge", str(path), str(tmp_path / "out"), *options]) == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    for name, tensor in tensors_of(paths["base"]).items():
        assert torch.equal(tensors_of(tmp_path / "out")[name], tensor)
    assert main(["merge", str(path), "--device", "cpu"]) == 2
    assert "names no output" in capsys.readouterr().err
    assert main(["merge", str(path), str(tmp_path / "two"), "--cuda", "--device", "cpu"]) == 2
    assert "one of the two would be right" in capsys.readouterr().err


def test_a_model_named_twice_counts_twice(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    file = {
        "merge_method": "linear",
        "models": [{"model": "m1"}, {"model": "m1"}, {"model": "m2"}],
        "parameters": {"weight": 1.0},
    }
    received = tensors_of(carried_out(file, paths, tmp_path))
    one, two = tensors_of(paths["m1"]), tensors_of(paths["m2"])
    for name, tensor in received.items():
        torch.testing.assert_close(tensor, (2 * one[name] + two[name]) / 3)


def test_tokenizer_keys_become_the_requests_own(tmp_path: Path) -> None:
    paths = family(tmp_path / "llama", layers=2)
    token = {"kind": "model_token", "model": str(paths["m2"]), "token_id": 3}
    tokenizer = {
        "source": str(paths["m1"]),
        "tokens": {
            "<a>": {"source": "base"},
            "<b>": {"source": token, "force": True},
            "<c>": {"source": {"kind": "zero"}},
        },
        "pad_to_multiple_of": 8,
    }
    path = tmp_path / "merge.yaml"

    def requested(changes: dict[str, Any]) -> Any:
        path.write_text(yaml.safe_dump({**with_paths(CASES["ties"], paths), **changes}))
        return merge_file_request(read_yaml(path), Options(tmp_path / "out"))

    request = requested({"tokenizer": tokenizer, "chat_template": "chatml"})
    assert request.chat_template == "chatml"
    assert request.tokenizer is not None
    assert (request.tokenizer.source, request.tokenizer.pad_to_multiple_of) == ("m1", 8)
    rules = request.tokenizer.tokens
    assert rules["<a>"].source.model == "base"
    assert (rules["<b>"].source.model, rules["<b>"].source.row, rules["<b>"].force) == ("m2", 3, True)
    assert rules["<c>"].source.model is None
    assert requested({"tokenizer_source": "union"}).tokenizer.source == "union"
    assert requested({"tokenizer_source": str(paths["base"])}).tokenizer.source == "base"
    with pytest.raises(ValueError, match=r"tokenizer\.sauce"):
        requested({"tokenizer": {"sauce": "base"}})
    with pytest.raises(ValueError, match=r"tokenizer\.source: 'elsewhere'"):
        requested({"tokenizer_source": "elsewhere"})
