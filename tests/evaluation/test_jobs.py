"""Runs of several models: shared tokens, kept predictions, templates, slices, and refusals before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from tiny_texts import save, tiny_gpt2, tiny_t5, write_dataset

import mats.evaluation.prepared as prepared
from mats.checkpoints import load_model
from mats.data import load_examples, load_processor
from mats.errors import DataError, InputsMismatch, RequestError
from mats.evaluation import (
    EvaluationJob,
    EvaluationSettings,
    evaluate_dataset,
    evaluate_jobs,
    evaluate_with,
    paired_difference,
    prepare_data,
)

TEMPLATES = ["w5 {text}", "{text} w6 w7", "w8 w9 {text}"]


@pytest.fixture
def models(tmp_path: Path) -> list[tuple[str, str]]:
    return [(f"m{seed}", save(tiny_t5(seed), tmp_path / f"m{seed}", "[END]")) for seed in (1, 2)]


@pytest.fixture
def ranked(tmp_path: Path) -> Any:
    content = {"task": "text_to_text", "templates": TEMPLATES, "choices": ["{a}", "{b}", "{c}"]}
    return write_dataset(tmp_path / "data", "ranked", **content)


@pytest.fixture
def spoken(tmp_path: Path) -> Any:
    template = {"input": "{text}", "target": "{answer}"}
    metrics = ["squad_f1", "exact_match"]
    return write_dataset(tmp_path / "data", "spoken", task="text_to_text", template=template, metrics=metrics)


class Loads:
    """`load_model`, counted."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def __call__(self, path: str, task: str, **options: Any) -> Any:
        self.tasks.append(task)
        return load_model(path, task, **options)


class Notes:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def start(self, description: str, total: int | None) -> None:
        self.stages.append(description)

    def advance(self, steps: int = 1) -> None:
        """Not looked at here."""

    def note(self, message: str) -> None:
        self.notes.append(message)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tokens_are_shared_by_models_of_one_tokenizer(
    models: Any, ranked: Any, spoken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = prepared.prepare_data

    def counted(spec: Any, *args: Any, **options: Any) -> Any:
        made.append(spec.name)
        return original(spec, *args, **options)

    monkeypatch.setattr(prepared, "prepare_data", counted)
    evaluate_with(EvaluationSettings(), models, [ranked, spoken])
    assert made == ["ranked", "spoken"]
    # The negative control: another tokenizer is not taken for the same.
    made.clear()
    other = save(tiny_t5(3), tmp_path / "other", "w9")
    evaluate_with(EvaluationSettings(), [*models, ("other", other)], [ranked])
    assert made == ["ranked", "ranked"]


def test_each_template_alone_and_their_median(models: Any, ranked: Any) -> None:
    report = evaluate_with(EvaluationSettings(templates="all"), models[:1], [ranked])
    result = report["models"][0]["results"]["ranked"]
    alone = []
    for index in range(3):
        spec = ranked.with_template(index)
        examples = load_examples(spec, "test")
        data = prepare_data(spec, examples, load_processor(models[0][1], spec), 5)
        alone.append(evaluate_dataset(load_model(models[0][1], "text_to_text"), data).value)
    assert [entry["value"] for entry in result["templates"]] == alone
    assert len(set(alone)) > 1
    assert result["value"] == median(alone) == report["models"][0]["mean"]
    assert result["quartiles"] == pytest.approx([np.quantile(alone, 0.25), np.quantile(alone, 0.75)])
    assert result["interquartile_range"] == pytest.approx(np.quantile(alone, 0.75) - np.quantile(alone, 0.25))
    some = evaluate_with(EvaluationSettings(templates="0, 2"), models[:1], [ranked])["models"][0]["results"]["ranked"]
    assert [entry["index"] for entry in some["templates"]] == [0, 2]
    cycled = evaluate_with(EvaluationSettings(templates="cycle"), models[:1], [ranked])
    assert cycled["models"][0]["results"]["ranked"]["value"] not in (None, result["value"])


def test_a_slice_is_the_same_rows_of_the_whole(models: Any, ranked: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    evaluate_with(EvaluationSettings(predictions=folder), models[:1], [ranked])
    evaluate_with(EvaluationSettings(predictions=folder, start=4, limit=3), models[:1], [ranked])
    whole, part = lines(folder / "m1" / "ranked-test.jsonl"), lines(folder / "m1" / "ranked-test-rows-4-7.jsonl")
    assert [entry["example_id"] for entry in part] == ["test:4", "test:5", "test:6"]
    for entry, same in zip(part, whole[4:7], strict=True):  # the same templates, too
        assert entry["scores"] == pytest.approx(same["scores"], rel=1e-5)


def test_a_finished_pair_is_not_scored_again(models: Any, ranked: Any, spoken: Any, tmp_path: Path) -> None:
    settings = EvaluationSettings(predictions=tmp_path / "kept", batch_size=4)
    first = evaluate_with(settings, models, [ranked, spoken])
    load, progress = Loads(), Notes()
    assert evaluate_with(settings, models, [ranked, spoken], load=load, progress=progress) == first
    assert (load.tasks, progress.stages) == ([], ["reading data"])
    assert len(progress.notes) == 4
    assert "m1 on ranked: scored before" in progress.notes[0]
    # Batches do not matter; everything that does is looked at.
    assert evaluate_with(EvaluationSettings(predictions=tmp_path / "kept"), models, [ranked], load=load) is not None
    assert load.tasks == []

    (tmp_path / "kept" / "m1" / "spoken-test.jsonl").open("a").write("{}\n")
    evaluate_with(settings, models, [ranked, spoken], load=load)
    assert load.tasks == ["text_to_text"]  # a file that was changed is not believed

    longer = spoken.model_copy(update={"length_normalization": True})
    evaluate_with(settings, models, [longer], load=load)
    assert len(load.tasks) == 3  # another dataset file, both models

    model = tiny_t5(1)
    with torch.no_grad():
        model.shared.weight[5, 0] += 1
    save(model, Path(models[0][1]), "[END]")
    evaluate_with(settings, models, [ranked], load=load)
    assert len(load.tasks) == 4  # other weights under the same path (TIES read the old predictions here)

    rows = tmp_path / "data" / "ranked.jsonl"
    rows.write_text(rows.read_text().replace('"label": 0', '"label": 1', 1))
    evaluate_with(settings, models, [ranked], load=load)
    assert len(load.tasks) == 6  # other rows


def test_generated_texts_are_kept(models: Any, spoken: Any, tmp_path: Path) -> None:
    report = evaluate_with(EvaluationSettings(predictions=tmp_path / "kept"), models[:1], [spoken])
    entries = lines(tmp_path / "kept" / "m1" / "spoken-test.jsonl")
    assert {type(entry["prediction"]) for entry in entries} == {str}
    assert len({entry["prediction"] for entry in entries}) > 3
    result = report["models"][0]["results"]["spoken"]
    assert result["metric"] == "squad_f1"
    assert set(result["metrics"]) == {"squad_f1", "exact_match"}
    assert result["value"] == pytest.approx(sum(entry["scores"]["squad_f1"] for entry in entries) / len(entries))


def test_a_model_is_compared_on_the_same_examples(models: Any, ranked: Any, tmp_path: Path) -> None:
    (first, path), (second, other) = models
    jobs = [
        EvaluationJob(first, path, (ranked,)),
        EvaluationJob(second, other, (ranked,), reference={"ranked": first}),
    ]
    report = evaluate_jobs(EvaluationSettings(predictions=tmp_path / "kept"), jobs)
    kept = [lines(tmp_path / "kept" / name / "ranked-test.jsonl") for name, _ in models]
    expected = paired_difference("accuracy", kept[1], kept[0])
    assert report["models"][1]["differences"]["ranked"] == {
        "to": first,
        "value": expected.value,
        "interval": expected.interval.as_json() if expected.interval else None,
    }
    values = [entry["results"]["ranked"]["value"] for entry in report["models"]]
    assert expected.value == pytest.approx(values[1] - values[0])
    assert "differences" not in report["models"][0]


def test_one_dataset_file_serves_both_kinds_of_model(models: Any, ranked: Any, tmp_path: Path) -> None:
    causal = save(tiny_gpt2(), tmp_path / "gpt2")
    load = Loads()
    report = evaluate_with(EvaluationSettings(), [models[0], ("causal", causal)], [ranked], load=load)
    assert load.tasks == ["text_to_text", "language_modeling"]
    data = prepare_data(ranked, load_examples(ranked, "test"), load_processor(causal, ranked), 4, decoder_only=True)
    alone = evaluate_dataset(load_model(causal, "language_modeling"), data)
    assert report["models"][1]["results"]["ranked"]["value"] == alone.value


def test_numbers_are_correlated(tmp_path: Path) -> None:
    from scipy.stats import pearsonr, spearmanr
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=40, num_labels=1, problem_type="regression", initializer_range=0.5, **shape)
    path = save(BertForSequenceClassification(config), tmp_path / "bert")
    spec = write_dataset(tmp_path / "data", "close", task="text_regression")
    report = evaluate_with(EvaluationSettings(predictions=tmp_path / "kept", batch_size=4), [("b", path)], [spec])
    model, tokenizer = load_model(path, "text_regression"), load_processor(path, spec).tokenizer  # type: ignore[union-attr]
    told, gold = [], []
    for example in load_examples(spec, "test"):
        with torch.no_grad():
            told.append(float(model(torch.tensor([tokenizer(example.text)["input_ids"]])).logits))
        gold.append(float(example.label or 0))
    expected = (pearsonr(told, gold).statistic + spearmanr(told, gold).statistic) / 2
    result = report["models"][0]["results"]["close"]
    assert result["metric"] == "pearson_spearman"
    assert result["value"] == pytest.approx(expected, abs=1e-5)
    assert result["interval"][0] <= result["value"] <= result["interval"][1]
    entries = lines(tmp_path / "kept" / "b" / "close-test.jsonl")
    assert [entry["prediction"] for entry in entries] == pytest.approx(told, abs=1e-5)


def test_perplexities_have_no_mean_with_accuracies(ranked: Any, tmp_path: Path) -> None:
    causal = save(tiny_gpt2(), tmp_path / "gpt2")
    prose = {"task": "language_modeling", "metrics": ["perplexity"], "perplexity": {"window": 8, "stride": 4}}
    spec = write_dataset(tmp_path / "data", "prose", **prose)
    entry = evaluate_with(EvaluationSettings(), [("causal", causal)], [ranked, spec])["models"][0]
    assert entry["mean"] is None
    assert entry["results"]["prose"]["value"] > 1
    low, high = entry["results"]["prose"]["interval"]
    assert low < entry["results"]["prose"]["value"] < high


def refused(match: str, kind: type[Exception], models: Any, specs: list[Any], **settings: Any) -> None:
    load = Loads()
    with pytest.raises(kind, match=match):
        evaluate_with(EvaluationSettings(**settings), models, specs, load=load)
    assert load.tasks == []


def test_wrong_requests_load_nothing(models: Any, ranked: Any, spoken: Any, tmp_path: Path) -> None:
    refused("no split 'dev'", DataError, models, [ranked], split="dev")
    refused("start 11 is beyond", RequestError, models, [ranked], start=11)
    refused("no template 3", RequestError, models, [ranked], templates="0,3")
    refused("all, cycle, or indices such as 0,2", RequestError, models, [ranked], templates="each")
    refused("an index is given twice", RequestError, models, [ranked], templates="1,1")
    mixed = ranked.model_copy(update={"metrics": ("accuracy", "exact_match")})
    refused("are two ways of scoring", RequestError, models, [mixed])
    unscored = ranked.model_copy(update={"metrics": ()})
    refused("metrics is empty", RequestError, models, [unscored])
    drawn = spoken.generation or prepared.DEFAULT_SETTINGS.model_copy(update={"do_sample": True, "num_beams": 2})
    refused("do_sample with num_beams 2", RequestError, models, [spoken.model_copy(update={"generation": drawn})])
    asked = spoken.model_copy(update={"metrics": ("accuracy",)})
    refused("has no answer choices for accuracy", DataError, models, [asked])
    (tmp_path / "data" / "ranked.jsonl").write_text("")
    refused("has no rows", DataError, models, [ranked])
    refused("no such file or folder", RequestError, [models[0], ("gone", str(tmp_path / "gone"))], [spoken])


def test_labels_outside_the_head_load_nothing(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=40, num_labels=3, max_position_embeddings=6, **shape)
    models = [("b", save(BertForSequenceClassification(config), tmp_path / "bert"))]
    spec = write_dataset(tmp_path / "data", "kinds", task="text_classification", labels=4, max_length=6)
    refused("labels 0 to 3, but the head of model b has 3 outputs", DataError, models, [spec])
    (tmp_path / "data" / "kinds.jsonl").write_text('{"text": "w5", "label": 1}\n')
    refused(
        "model b has 3 classes, dataset kinds has 2", InputsMismatch, models, [spec.model_copy(update={"labels": 2})]
    )
    refused("label 1 is outside range", DataError, models, [spec.model_copy(update={"labels": 1})])
    number = write_dataset(tmp_path / "data", "near", task="text_regression")
    refused("asks for one number, but the head of model b has 3 outputs", DataError, models, [number])
    long = write_dataset(tmp_path / "data", "long", task="text_classification", labels=3)
    refused("9 tokens, but model b has 6 positions; max_length of at most 6", RequestError, models, [long])


def test_what_a_causal_model_has_no_room_for_loads_nothing(tmp_path: Path) -> None:
    models = [("g", save(tiny_gpt2(positions=16), tmp_path / "gpt2"))]
    prose = write_dataset(tmp_path / "data", "prose", task="language_modeling", metrics=["perplexity"])
    refused("model g has 16 positions; perplexity.window of at most 16", RequestError, models, [prose])
    template = {"input": "{text}", "target": "{answer}"}
    written = {"task": "language_modeling", "template": template, "metrics": ["squad"]}
    spec = write_dataset(tmp_path / "data", "spoken", generation={"max_new_tokens": 9}, **written)
    refused("generation.max_new_tokens together", RequestError, models, [spec])
    evaluate_with(EvaluationSettings(), models, [spec.model_copy(update={"max_length": 16})])
