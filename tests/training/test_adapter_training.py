"""LoRA and (IA)³: folders that load again, a shared start, and a frozen base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_cases import Recorder, TinyBase, changed, distance, weights

from mats.checkpoints import load_model, open_checkpoint
from mats.data import load_examples, load_processor, make_batches
from mats.errors import InputsMismatch, RequestError
from mats.evaluation import evaluate
from mats.training import fine_tune, read_report

Bases = Callable[[str], TinyBase]
IA3 = {"method": "ia3"}
LORA = {"method": "lora", "rank": 2, "alpha": 8}


@pytest.mark.parametrize(("kind", "tuning"), [("t5", IA3), ("t5", LORA), ("bert", IA3), ("bert", LORA), ("gpt2", LORA)])
def test_an_adapter_folder_scores_what_its_report_says(
    tiny_base: Bases, tmp_path: Path, kind: str, tuning: dict[str, object]
) -> None:
    base = tiny_base(kind)
    spec = base.spec()
    request = base.request(tmp_path / "out", updates=12, learning_rate=2e-2, tuning=tuning)
    folder = fine_tune(request)
    assert sorted(path.name for path in folder.iterdir() if path.name != "generation_config.json") == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.kind == tuning["method"]
        assert checkpoint.config is not None
        assert checkpoint.config["base_model_name_or_path"] == str(base.base)
    report = read_report(folder)
    assert 0 < report["model"]["trained_parameters"] < 0.1 * report["model"]["parameters"]
    if kind == "gpt2":  # scored by perplexity, which needs the whole text
        return
    model = load_model(folder, spec.task)
    batches = make_batches(load_examples(spec, "validation"), spec, load_processor(folder, spec), 8)
    assert evaluate(model, batches).value == pytest.approx(report["chosen"]["score"])


def test_ia3_scales_outputs_of_keys_values_and_gates(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("t5")
    folder = fine_tune(base.request(tmp_path / "out", tuning="ia3"))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k", "v", "wi_1"]
    assert config["feedforward_modules"] == []
    shapes = {name.rpartition(".ia3_l")[0].rpartition(".")[2]: t.shape for name, t in weights(folder).items()}
    assert shapes == {"k": (32, 1), "v": (32, 1), "wi_1": (48, 1)}


def test_only_the_adapter_and_the_head_move(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    folder = fine_tune(base.request(tmp_path / "out", tuning=LORA, learning_rate=1e-2))
    names = set(weights(folder))
    heads = {name for name in names if "classifier" in name}
    assert {name.rpartition("classifier.")[2] for name in heads} == {"weight", "bias"}
    assert all(".lora_A." in name or ".lora_B." in name for name in names - heads)
    before = weights(base.base)["classifier.weight"]
    (head,) = [tensor for name, tensor in weights(folder).items() if name.endswith("classifier.weight")]
    assert not torch.allclose(head, before, atol=1e-3)


def test_adapters_with_a_new_head_load_with_their_own_classes(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    spec = changed(base.spec(), labels=("no", "yes", "maybe"))
    folder = fine_tune(replace(base.request(tmp_path / "out", tuning=IA3), datasets=(spec,)))
    model = load_model(folder, spec.task)
    batches = make_batches(load_examples(spec, "validation"), spec, load_processor(folder, spec), 8)
    assert evaluate(model, batches).value == pytest.approx(read_report(folder)["chosen"]["score"])


def factor(folder: Path, letter: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights(folder).items() if f".lora_{letter}." in name}


def test_a_seed_of_its_own_gives_all_tasks_the_same_first_factor(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    still = {"updates": 1, "learning_rate": 1e-12}
    shared = {**LORA, "adapter_initialisation": 30}
    one = fine_tune(base.request(tmp_path / "one", "colour", seed=1, tuning=shared, **still))
    two = fine_tune(base.request(tmp_path / "two", "size", seed=2, tuning=shared, **still))
    other = fine_tune(base.request(tmp_path / "other", "size", seed=2, tuning=LORA, **still))
    assert distance(factor(one, "A"), factor(two, "A")) < 1e-6
    assert distance(factor(two, "A"), factor(other, "A")) > 1e-2
    assert max(float(tensor.abs().max()) for tensor in factor(one, "B").values()) < 1e-6


@pytest.mark.parametrize("tuning", [LORA, IA3])
def test_training_goes_on_from_an_adapter_folder(tiny_base: Bases, tmp_path: Path, tuning: dict[str, object]) -> None:
    base = tiny_base("t5")
    first = fine_tune(base.request(tmp_path / "first", tuning=tuning, learning_rate=1e-2))
    onward = {**tuning, "adapter_initialisation": str(first)}
    second = fine_tune(base.request(tmp_path / "second", "mood", tuning=onward, learning_rate=1e-12, updates=1))
    assert distance(weights(first), weights(second)) < 1e-6


def test_an_interrupted_adapter_run_ends_with_the_same_weights(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    settings = {"tuning": {**LORA, "dropout": 0.2}, "evaluate_every": 2, "keep": "last"}
    whole = fine_tune(base.request(tmp_path / "whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        fine_tune(base.request(tmp_path / "out", **settings), Recorder(stop_after=5))
    assert distance(weights(whole), weights(fine_tune(base.request(tmp_path / "out", **settings)))) == 0.0


@pytest.mark.parametrize(
    ("tuning", "error", "message"),
    [
        ({**LORA, "modules": ["nope"]}, RequestError, "'nope' is the ending of no linear layer of BertForSequence"),
        ({**LORA, "adapter_initialisation": "ia3"}, RequestError, "is ia3; lora would be right"),
        (
            {**LORA, "rank": 3, "adapter_initialisation": "lora"},
            InputsMismatch,
            r"has shape \[2, 32\], here \[3, 32\]; the same rank",
        ),
        (
            {**LORA, "modules": ["key"], "adapter_initialisation": "lora"},
            InputsMismatch,
            "adapts other modules .*is on one side only",
        ),
    ],
)
def test_adapters_that_cannot_be(
    tiny_base: Bases, tmp_path: Path, tuning: dict[str, object], error: type[Exception], message: str
) -> None:
    base = tiny_base("bert")
    start = tuning.get("adapter_initialisation")
    if start is not None:
        folder = fine_tune(base.request(tmp_path / "start", updates=1, tuning=IA3 if start == "ia3" else LORA))
        tuning = {**tuning, "adapter_initialisation": str(folder)}
    with pytest.raises(error, match=message):
        fine_tune(base.request(tmp_path / "out", tuning=tuning))
