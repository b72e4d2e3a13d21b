"""`mats evaluate`: what it prints, where it writes, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_files import Ended

Run = Callable[..., Ended]


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classifiers with their data, a third as their result, and a recipe that names them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    monkeypatch.chdir(tmp_path)
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{index}": index for index in range(2, 20)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=20, num_labels=3, initializer_range=0.6, **shape)
    for seed, name in enumerate(("one", "two", "out")):
        torch.manual_seed(seed)
        BertForSequenceClassification(config).save_pretrained(name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(name)
    for seed, name in enumerate(("one", "two")):
        rows = [{"text": f"w{2 + (seed + row * 7) % 18} w{2 + row % 18}", "label": row % 3} for row in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = {
            "name": f"data-{name}",
            "task": "text_classification",
            "source": {"format": "json_lines", "files": {"test": f"{name}.jsonl"}},
            "templates": ["{text}", "w3 {text} w4"],
            "template_rule": 0,
            "labels": 3,
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))
    recipe = {
        "models": [{"name": name, "path": name, "data": f"{name}.yaml"} for name in ("one", "two")],
        "merge": "average",
        "output": "out",
        "device": "cpu",
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path


def test_the_table_has_intervals_and_differences(scored: Path, run_mats: Run) -> None:
    value = run_mats("evaluate", "recipe.yaml", "--json").value
    merged = value["models"][-1]
    result, difference = merged["results"]["data-one"], merged["differences"]["data-one"]
    assert result["interval"][0] <= result["value"] <= result["interval"][1]
    assert difference["to"] == "one"
    assert difference["value"] == pytest.approx(result["value"] - value["models"][0]["results"]["data-one"]["value"])
    assert value["intervals"]["confidence"] == 0.95
    assert json.loads((scored / "out" / "scores-test.json").read_text())["models"] == value["models"]
    shown = run_mats("evaluate", "recipe.yaml").out
    (line,) = [line for line in shown.splitlines() if line.startswith("merged") and "data-one" in line]
    low, high = result["interval"]
    assert f"{result['value']:.3f}" in line
    assert f"{low:.3f} to {high:.3f}" in line
    assert f"{difference['value']:+.3f} [" in line


def test_slices_and_templates_have_files_of_their_own(scored: Path, run_mats: Run) -> None:
    run_mats("evaluate", "recipe.yaml")
    whole = (scored / "out" / "scores-test.json").read_text()
    part = run_mats("evaluate", "recipe.yaml", "--start", 3, "--end", 9, "--examples", 4, "--json").value
    assert part["datasets"][0]["examples"] == 4
    assert Path(part["written"]).name == "scores-test-rows-3-7.json"
    every = run_mats("evaluate", "recipe.yaml", "--templates", "all", "--json").value
    assert Path(every["written"]).name == "scores-test-templates-all.json"
    result = every["models"][0]["results"]["data-one"]
    assert len(result["templates"]) == 2
    assert result["value"] == pytest.approx(sum(entry["value"] for entry in result["templates"]) / 2)
    assert (scored / "out" / "scores-test.json").read_text() == whole
    shown = run_mats("evaluate", "recipe.yaml", "--templates", "all").out
    assert "quartiles over templates" in shown
    assert "the median over templates" in shown
    one = run_mats("evaluate", "recipe.yaml", "evaluate.templates=1", "--json").value
    assert one["models"][0]["results"]["data-one"]["value"] == result["templates"][1]["value"]


def test_kept_predictions_are_taken_up(scored: Path, run_mats: Run) -> None:
    first = run_mats("evaluate", "recipe.yaml", "--predictions", "kept", "--json").value
    again = run_mats("evaluate", "recipe.yaml", "evaluate.predictions=kept")
    assert again.err.count("scored before") == 4
    assert run_mats("evaluate", "recipe.yaml", "--predictions", "kept", "--json").value == first


def test_models_by_path_are_compared_with_the_first(scored: Path, run_mats: Run) -> None:
    arguments = ("--model", "one", "--model", "out", "--data", "one.yaml", "--device", "cpu", "--json")
    value = run_mats("evaluate", *arguments).value
    assert "differences" not in value["models"][0]
    assert value["models"][1]["differences"]["data-one"]["to"] == "one"


def test_a_mixture_stands_for_its_datasets(scored: Path, run_mats: Run) -> None:
    (scored / "both.yaml").write_text("name: both\ndatasets: [one.yaml, two.yaml]\n")
    arguments = ("--model", "out", "--device", "cpu", "--json")
    mixed = run_mats("evaluate", *arguments, "--data", "both.yaml").value
    assert mixed == run_mats("evaluate", *arguments, "--data", "one.yaml", "--data", "two.yaml").value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipe.yaml", "--start", "12"], "start 12 is beyond"),
        (["recipe.yaml", "--start", "5", "--end", "5"], "an end beyond the start would be right"),
        (["recipe.yaml", "--templates", "first"], "all, cycle, or indices such as 0,2 would be right"),
        (["recipe.yaml", "--templates", "2"], "no template 2"),
        (["recipe.yaml", "--split", "dev"], "no split 'dev'"),
        (["recipe.yaml", "--data", "one.yaml"], "--data one.yaml: goes with --model"),
        (["recipe.yaml", "--head", "one"], "--head one: goes with --model"),
        (["--model", "one"], "give a RECIPE, or --model with --data"),
        (["--model", "one", "--data", "one.yaml", "--start", "5", "--end", "4"], "end 4 with start 5"),
    ],
)
def test_wrong_requests_end_with_2(
    scored: Path, run_mats: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mats.checkpoints.load_model", load)
    ended = run_mats("evaluate", *arguments)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert said in ended.err


def test_labels_outside_the_head_end_with_2(scored: Path, run_mats: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((scored / "one.yaml").read_text())
    (scored / "one.yaml").write_text(json.dumps({**content, "labels": 5}))
    ended = run_mats("evaluate", "recipe.yaml")
    assert ended.status == 2
    assert "labels 0 to 4, but the head of model one has 3 outputs" in ended.err


def test_every_dataset_gets_its_own_models_head(scored: Path, run_mats: Run) -> None:
    """Three classes and four on one body; a merge of models that are one and the same has their own scores."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(9)
    four = BertForSequenceClassification.from_pretrained("one", num_labels=4, ignore_mismatched_sizes=True)
    four.save_pretrained("two")
    content = json.loads((scored / "two.yaml").read_text())
    (scored / "two.yaml").write_text(json.dumps({**content, "labels": 4}))
    recipe = json.loads((scored / "recipe.yaml").read_text())
    recipe |= {"base": "one", "heads": {"from": "own"}, "output": "joined"}
    (scored / "recipe.yaml").write_text(json.dumps(recipe))
    assert run_mats("merge", "recipe.yaml").status == 0
    entries = {entry["name"]: entry for entry in run_mats("evaluate", "recipe.yaml", "--json").value["models"]}
    for model in ("one", "two"):
        data = f"data-{model}"
        assert entries["merged"]["results"][data] == entries[model]["results"][data]
    arguments = ("--model", "joined", "--data", "two.yaml", "--device", "cpu", "--json")
    assert "the head of model joined has 3 outputs" in run_mats("evaluate", *arguments).value["error"]
    value = run_mats("evaluate", *arguments, "--head", "two").value
    assert value["models"][0]["results"]["data-two"] == entries["two"]["results"]["data-two"]
    ended = run_mats("evaluate", *arguments, "--head", "three")
    assert ended.status == 2
    assert "one of one, two would be right" in ended.value["error"]
